package source

import (
	"context"
	"io"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Operation is something that a source was asked for, and how it went.
type Operation struct {
	Op    string // "list", "open", "read" or "stream"
	File  string // its name; "" of a list
	Bytes int64  // that were read
	Took  time.Duration
	Class recovery.Class // of its error; "" where it went well
}

// Observer is told of each operation at its end, of a stream when it is
// closed: metrics and traces are made of it. It must not block.
type Observer func(ctx context.Context, o Operation)

// Observe tells of what s is asked for. Its readers are no Mappers: what is
// used of a mapping could not be told.
func Observe(s Source, tell Observer) Source { return observed{s, tell} }

type observed struct {
	Source
	tell Observer
}

// do runs an operation that returns how many bytes it read, and tells of it.
func (t Observer) do(ctx context.Context, op, file string, f func() (int64, error)) error {
	begun := time.Now()
	n, err := f()
	t(ctx, Operation{op, file, n, time.Since(begun), recovery.ClassOf(err)})
	return err
}

func (s observed) Files(ctx context.Context) (files []File, err error) {
	err = s.tell.do(ctx, "list", "", func() (int64, error) { files, err = s.Source.Files(ctx); return 0, err })
	return files, err
}

func (s observed) Open(ctx context.Context, name string) (Reader, error) {
	var r Reader
	err := s.tell.do(ctx, "open", name, func() (_ int64, err error) { r, err = s.Source.Open(ctx, name); return 0, err })
	if err != nil {
		return nil, err
	}
	return observedReader{r, s.tell}, nil
}

type observedReader struct {
	Reader
	tell Observer
}

func (r observedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	return r.tell.do(ctx, "read", r.File().Name, func() (int64, error) {
		if err := r.Reader.ReadAt(ctx, p, off); err != nil {
			return 0, err
		}
		return int64(len(p)), nil
	})
}

// Stream implements Streamer.
func (r observedReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	o, begun := Operation{Op: "stream", File: r.File().Name}, time.Now()
	end := func(err error) {
		o.Took, o.Class = time.Since(begun), recovery.ClassOf(err)
		r.tell(ctx, o)
	}
	s, err := Stream(ctx, r.Reader, off, n)
	if err != nil {
		end(err)
		return nil, err
	}
	var failed error
	return &passed{ReadCloser: s, close: func() { end(failed) }, read: func(p []byte) (int, error) {
		n, err := s.Read(p)
		o.Bytes += int64(n)
		if err != nil && err != io.EOF {
			failed = err
		}
		return n, err
	}}, nil
}
