package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gantry-ml/gantry/recovery"
)

// pread reads a local file range by range. It looks at the file again after
// each read: one fstat, which is nothing beside the read of a chunk.
type pread struct {
	file File
	path string // for messages
	f    *os.File
	cold *direct // reads around the page cache; nil: never
}

func (r *pread) File() File   { return r.file }
func (r *pread) Close() error { return cmp.Or(r.f.Close(), r.cold.close()) }

// ReadAt implements Reader.
func (r *pread) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	if r.cold.read(p, off) {
		return r.Verify()
	}
	n, err := r.f.ReadAt(p, off)
	if n == len(p) {
		return r.Verify()
	}
	if errors.Is(err, io.EOF) {
		return r.changed(off, int64(len(p)), fmt.Errorf("the file ends at byte %d, it had %d when it was opened", off+int64(n), r.file.Size))
	}
	return r.at(off, int64(len(p)), fileError("read", r.path, err))
}

// check refuses a range that the file did not hold when it was opened.
func (r *pread) check(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > r.file.Size || n > r.file.Size-off {
		return r.changed(off, n, fmt.Errorf("the range is not in the file, which has %d bytes", r.file.Size))
	}
	return nil
}

// Verify fails with class source_changed where the file is no longer the one
// that was opened. A file that was replaced under its name is still there for
// who opened it, so only writing and truncating count.
func (r *pread) Verify() error {
	info, err := r.f.Stat()
	if err != nil {
		return fileError("read", r.path, err)
	}
	if now := describe(r.file.Name, info); now.ID != r.file.ID {
		return r.changed(0, 0, fmt.Errorf("the file was changed while it was read (%s, was %s)", now.ID, r.file.ID))
	}
	return nil
}

func (r *pread) changed(off, n int64, why error) error {
	return &recovery.Error{Class: recovery.SourceChanged, Op: "read", File: r.path,
		Offset: off, Length: n, Err: why, Hint: "load again once nobody writes it"}
}

func (r *pread) at(off, n int64, err error) error {
	var e *recovery.Error
	if errors.As(err, &e) {
		e.Offset, e.Length = off, n
	}
	return err
}
