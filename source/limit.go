package source

import (
	"context"
	"errors"
	"io"

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
	if err := r.wait(ctx, off, len(p)); err != nil {
		return err
	}
	return r.Reader.ReadAt(ctx, p, off)
}

// Stream waits for the bytes of each Read before it.
func (r limitedReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s, err := Stream(ctx, r.Reader, off, n)
	if err != nil {
		return nil, err
	}
	left := n
	return &passed{ReadCloser: s, read: func(p []byte) (int, error) {
		if p = p[:min(int64(len(p)), left)]; len(p) == 0 {
			return s.Read(p)
		}
		if err := r.wait(ctx, off, len(p)); err != nil {
			return 0, err
		}
		// What was waited for is read: a short read would be waited for twice.
		got, err := io.ReadFull(s, p)
		off, left = off+int64(got), left-int64(got)
		return got, err
	}}, nil
}

// wait returns when n bytes, from off of the file, may be read.
func (r limitedReader) wait(ctx context.Context, off int64, n int) error {
	for left := n; left > 0; {
		part := min(left, r.limiter.Burst())
		if err := r.limiter.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &recovery.Error{Class: recovery.Timeout, Op: "read", File: r.File().Name, Offset: off, Length: int64(n),
				Err: errors.New("the rate limit does not allow it before its deadline"), Hint: "raise --limit-rate"}
		}
		left -= part
	}
	return nil
}
