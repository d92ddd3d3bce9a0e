package source

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// RetryPolicy says how often and how patiently a source is asked again after
// an error of a recoverable class. The zero value is 4 tries again, from 50 ms
// to 5 s apart, at most a minute where the server names the time itself, and
// at most 64 failures more than successes.
type RetryPolicy struct {
	Retries int              // tries of one operation after its first; below 0 none
	Backoff recovery.Backoff // between them, unless the server says how long
	MaxWait time.Duration    // a server that asks for more is given up
	// Budget is how many tries again all operations together have. A success
	// gives one back, so that a source that is down fails fast.
	Budget int64
}

// RetryFor is the policy of requests in a job with a strategy: as many tries
// as it allows the job's own pieces of work, so that fail-fast means that.
func RetryFor(s recovery.Strategy) RetryPolicy {
	if n := s.Limit(); n > 0 {
		return RetryPolicy{Retries: n, Backoff: s.Backoff}
	}
	return RetryPolicy{Retries: -1}
}

// Retry asks s again, within the policy. What ends is the last error.
func Retry(s Source, p RetryPolicy) Source { return retried{s, newRetrier(p)} }

func newRetrier(p RetryPolicy) *retrier {
	p.Retries = cmp.Or(p.Retries, recovery.DefaultAttempts)
	p.MaxWait = cmp.Or(p.MaxWait, time.Minute)
	p.Budget = cmp.Or(p.Budget, 64)
	return &retrier{policy: p}
}

// retryAfter is implemented by errors of servers that say when to come back.
type retryAfter interface{ RetryAfter() time.Duration }

type retrier struct {
	policy RetryPolicy
	spent  atomic.Int64
}

func (r *retrier) do(ctx context.Context, try func() error) error {
	for failed := 1; ; failed++ {
		err := try()
		if err == nil {
			if r.spent.Add(-1) < 0 {
				r.spent.CompareAndSwap(-1, 0)
			}
			return nil
		}
		if ctx.Err() != nil || !recovery.ShouldRecover(err) || failed > r.policy.Retries {
			return err
		}
		delay := r.policy.Backoff.Delay(failed)
		var after retryAfter
		if errors.As(err, &after) && after.RetryAfter() > 0 {
			delay = after.RetryAfter()
		}
		if delay > r.policy.MaxWait || r.spent.Add(1) > r.policy.Budget {
			return err
		}
		if wait(ctx, delay) != nil {
			return ctx.Err()
		}
	}
}

type retried struct {
	Source
	r *retrier
}

func (s retried) Files(ctx context.Context) (files []File, err error) {
	err = s.r.do(ctx, func() error { files, err = s.Source.Files(ctx); return err })
	return files, err
}

func (s retried) Open(ctx context.Context, name string) (Reader, error) {
	var r Reader
	err := s.r.do(ctx, func() (err error) { r, err = s.Source.Open(ctx, name); return err })
	if err != nil {
		return nil, err
	}
	return retriedReader{r, s.r}, nil
}

type retriedReader struct {
	Reader
	r *retrier
}

// Stream goes on where it broke off: what has come is not asked for again.
// Tries count anew with each byte that comes.
func (r retriedReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s := &retriedStream{ctx: ctx, r: r, off: off, left: n}
	if err := r.r.do(ctx, s.open); err != nil {
		return nil, err
	}
	return s, nil
}

// retriedStream is a stream that is opened again after an error.
type retriedStream struct {
	ctx       context.Context
	r         retriedReader
	off, left int64
	from      io.ReadCloser // nil: to be opened
}

func (s *retriedStream) open() (err error) {
	if s.from == nil {
		s.from, err = Stream(s.ctx, s.r.Reader, s.off, s.left)
	}
	return err
}

func (s *retriedStream) Read(p []byte) (n int, err error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	err = s.r.r.do(s.ctx, func() error {
		if err := s.open(); err != nil {
			return err
		}
		got, err := s.from.Read(p)
		if n = got; n > 0 || err == nil {
			s.off, s.left = s.off+int64(n), s.left-int64(n)
			return nil // an error besides comes again with the next Read
		}
		_ = s.from.Close() // it has failed already
		s.from = nil
		return err
	})
	return n, err
}

func (s *retriedStream) Close() error {
	if s.from == nil {
		return nil
	}
	return s.from.Close()
}

func (r retriedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	return r.r.do(ctx, func() error { return r.Reader.ReadAt(ctx, p, off) })
}
