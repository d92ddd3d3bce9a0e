package source

import (
	"context"
	"errors"

	"golang.org/x/time/rate"

	"github.com/gantry-ml/gantry/recovery"
)

// limitBurst is the most bytes that are waited for at once. A longer read
// waits several times, so that readers take turns and nobody waits for more
// than the limiter can grant.
const limitBurst = 1 << 20

// Limit bounds the rate at which all of s's readers together read, in bytes
// per second; 0 is no limit. Its readers are no Mappers: what is read from
// memory could not be held back.
func Limit(s Source, bytesPerSecond int64) Source {
	if bytesPerSecond <= 0 {
		return s
	}
	burst := int(min(limitBurst, bytesPerSecond))
	return limited{s, rate.NewLimiter(rate.Limit(bytesPerSecond), burst)}
}

type limited struct {
	Source
	limiter *rate.Limiter
}

func (s limited) Open(ctx context.Context, name string) (Reader, error) {
	r, err := s.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return limitedReader{r, s.limiter}, nil
}

type limitedReader struct {
	Reader
	limiter *rate.Limiter
}

// ReadAt waits for the bytes, then reads them. A deadline that would pass
// while it waits fails it at once, with class timeout.
func (r limitedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	for left := len(p); left > 0; {
		n := min(left, r.limiter.Burst())
		if err := r.limiter.WaitN(ctx, n); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &recovery.Error{Class: recovery.Timeout, Op: "read", File: r.File().Name, Offset: off, Length: int64(len(p)),
				Err: errors.New("the rate limit does not allow it before its deadline"), Hint: "raise --limit-rate"}
		}
		left -= n
	}
	return r.Reader.ReadAt(ctx, p, off)
}
