package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/time/rate"

	"github.com/gantry-ml/gantry/recovery"
)

// limitBurst is the most bytes that are read without waiting after a pause.
const limitBurst = 1 << 20

// Limiter bounds a rate of reading. Its methods may be called from several
// goroutines.
type Limiter struct {
	turn chan struct{} // is held by who waits for bytes
	rate *rate.Limiter // nil: no limit
}

// NewLimiter returns a limiter of so many bytes per second; 0 is no limit.
func NewLimiter(bytesPerSecond int64) *Limiter {
	l := &Limiter{turn: make(chan struct{}, 1)}
	if bytesPerSecond > 0 {
		l.rate = rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(limitBurst, bytesPerSecond)))
	}
	return l
}

// Wait returns when n more bytes may be read: who asks first is served first.
// Where ctx has a deadline that would pass meanwhile it fails, with class
// timeout, and does not wait for that.
func (l *Limiter) Wait(ctx context.Context, n int64) error {
	if l.rate == nil {
		return nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for left := n; left > 0; left -= int64(l.rate.Burst()) {
		if err := l.rate.WaitN(ctx, int(min(left, int64(l.rate.Burst())))); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &recovery.Error{Class: recovery.Timeout, Op: fmt.Sprintf("read %d bytes", n),
				Err: errors.New("the rate limit does not allow it before its deadline"), Hint: "raise --limit-rate"}
		}
	}
	return nil
}

// Limit bounds the rate at which all of s's readers together read, in bytes
// per second; 0 is no limit. Its readers are no Mappers: what is read from
// memory could not be held back.
func Limit(s Source, bytesPerSecond int64) Source {
	if bytesPerSecond <= 0 {
		return s
	}
	return limited{s, NewLimiter(bytesPerSecond)}
}

type limited struct {
	Source
	limiter *Limiter
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
	limiter *Limiter
}

// ReadAt waits for the bytes, then reads them.
func (r limitedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.limiter.Wait(ctx, int64(len(p))); err != nil {
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
		if err := r.limiter.Wait(ctx, int64(len(p))); err != nil {
			return 0, err
		}
		// What was waited for is read: a short read would be waited for twice.
		got, err := io.ReadFull(s, p)
		left -= int64(got)
		return got, err
	}}, nil
}
