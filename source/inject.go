package source

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Inject makes s fail, wait and corrupt as the rules say. Its readers are no
// Mappers: what is used of a mapping could not be made to fail.
func Inject(s Source, f *Faults) Source { return faulty{s, f} }

type faulty struct {
	Source
	faults *Faults
}

func (s faulty) Files(ctx context.Context) ([]File, error) {
	if _, err := s.faults.before(ctx, "list", "", 0, 0); err != nil {
		return nil, err
	}
	return s.Source.Files(ctx)
}

func (s faulty) Open(ctx context.Context, name string) (Reader, error) {
	if _, err := s.faults.before(ctx, "open", name, 0, 0); err != nil {
		return nil, err
	}
	r, err := s.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return faultyReader{r, s.faults}, nil
}

type faultyReader struct {
	Reader
	faults *Faults
}

func (r faultyReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	corrupt, err := r.faults.before(ctx, "read", r.File().Name, off, int64(len(p)))
	if err != nil {
		return err
	}
	if err := r.Reader.ReadAt(ctx, p, off); err != nil {
		return err
	}
	spoil(corrupt, p, off)
	return nil
}

// Stream takes each Read for a read.
func (r faultyReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s, err := Stream(ctx, r.Reader, off, n)
	if err != nil {
		return nil, err
	}
	return &passed{ReadCloser: s, read: func(p []byte) (int, error) {
		corrupt, err := r.faults.before(ctx, "read", r.File().Name, off, int64(len(p)))
		if err != nil {
			return 0, err
		}
		n, err := s.Read(p)
		spoil(corrupt, p[:n], off)
		off += int64(n)
		return n, err
	}}, nil
}

// spoil inverts what the rules say of the bytes p, which lie at off.
func spoil(corrupt []*rule, p []byte, off int64) {
	for _, c := range corrupt {
		start, stop := int64(0), int64(len(p))
		if c.ranged {
			start, stop = max(start, c.start-off), min(stop, c.stop-off)
		}
		for i := start; i < stop; i++ {
			p[i] = ^p[i]
		}
	}
}

// Before does what the rules say about an operation on a job that is none of a
// source's, and returns the error that it is to fail with.
func (f *Faults) Before(ctx context.Context, op, job string) error {
	_, err := f.before(ctx, op, job, 0, 0)
	return err
}

// before does what the rules say about an operation on n bytes from off, and
// returns those that are to corrupt its result.
func (f *Faults) before(ctx context.Context, op, name string, off, n int64) (corrupt []*rule, err error) {
	for _, r := range f.rules {
		if !r.acts(op, name, off, n) {
			continue
		}
		switch r.act {
		case "fail":
			return nil, &recovery.Error{Class: r.class, Op: op, File: name, Offset: off, Length: n,
				Err: fmt.Errorf("%s, injected by the rule %q", r.class, r.text)}
		case "corrupt":
			corrupt = append(corrupt, r)
		case "delay":
			if err := wait(ctx, r.delay); err != nil {
				return nil, err
			}
		case "block":
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	return corrupt, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
