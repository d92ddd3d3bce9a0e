package source

import (
	"context"
	"io"
	"sync/atomic"
)

// Counter adds up what was read. It may be used for several sources at once.
type Counter struct {
	Opens atomic.Int64 // files opened
	Reads atomic.Int64 // ReadAt calls that succeeded, and streams
	Bytes atomic.Int64 // what they read
}

// Count counts what is read of s. Its readers are no Mappers: what is used of
// a mapping could not be counted.
func Count(s Source, c *Counter) Source { return counted{s, c} }

type counted struct {
	Source
	c *Counter
}

func (s counted) Open(ctx context.Context, name string) (Reader, error) {
	r, err := s.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	s.c.Opens.Add(1)
	return countedReader{r, s.c}, nil
}

// Stream counts as one read, once it gives its first byte.
func (r countedReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s, err := Stream(ctx, r.Reader, off, n)
	if err != nil {
		return nil, err
	}
	begun := false
	return &passed{ReadCloser: s, read: func(p []byte) (int, error) {
		n, err := s.Read(p)
		if n > 0 && !begun {
			begun = true
			r.c.Reads.Add(1)
		}
		r.c.Bytes.Add(int64(n))
		return n, err
	}}, nil
}

type countedReader struct {
	Reader
	c *Counter
}

func (r countedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.Reader.ReadAt(ctx, p, off); err != nil {
		return err
	}
	r.c.Reads.Add(1)
	r.c.Bytes.Add(int64(len(p)))
	return nil
}
