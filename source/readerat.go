package source

import (
	"context"
	"io"
)

// ReaderAt is a file as the standard library reads it, until ctx ends.
func ReaderAt(ctx context.Context, r Reader) io.ReaderAt { return readerAt{ctx, r} }

type readerAt struct {
	ctx context.Context
	r   Reader
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.r.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}
