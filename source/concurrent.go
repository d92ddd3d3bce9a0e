package source

import (
	"context"
	"io"
)

// Concurrent lets at most n operations on s and its readers be under way at
// once; the others wait for their turn or the end of their context. Its
// readers are no Mappers.
func Concurrent(s Source, n int) Source {
	return concurrent{s, make(chan struct{}, max(n, 1))}
}

// turns holds one token for each operation under way.
type turns chan struct{}

func (t turns) do(ctx context.Context, f func() error) error {
	select {
	case t <- struct{}{}:
		defer func() { <-t }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

type concurrent struct {
	Source
	turns turns
}

func (s concurrent) Files(ctx context.Context) (files []File, err error) {
	err = s.turns.do(ctx, func() error { files, err = s.Source.Files(ctx); return err })
	return files, err
}

func (s concurrent) Open(ctx context.Context, name string) (Reader, error) {
	var r Reader
	err := s.turns.do(ctx, func() (err error) { r, err = s.Source.Open(ctx, name); return err })
	if err != nil {
		return nil, err
	}
	return concurrentReader{r, s.turns}, nil
}

type concurrentReader struct {
	Reader
	turns turns
}

// Stream has a turn until it is closed.
func (r concurrentReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	select {
	case r.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s, err := Stream(ctx, r.Reader, off, n)
	if err != nil {
		<-r.turns
		return nil, err
	}
	return &passed{ReadCloser: s, close: func() { <-r.turns }}, nil
}

func (r concurrentReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	return r.turns.do(ctx, func() error { return r.Reader.ReadAt(ctx, p, off) })
}
