package outfile

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gantry-ml/gantry/recovery"
)

// File is a file being written. Its bytes may be written in any order and from
// several goroutines; then call Commit, or Abort to leave nothing behind.
type File struct {
	path string
	f    *os.File
}

// Create begins a file of size bytes that will be called path. Bytes that are
// never written are zero. The temporary name is no other writer's. Errors say
// path: not_found where its folder is missing, not_allowed, out_of_capacity
// where the disk is full, else unavailable.
func Create(path string, size int64) (*File, error) {
	for i := 0; ; i++ {
		temp := fmt.Sprintf("%s.%d-%d.tmp", path, os.Getpid(), i)
		f, err := CreateAs(temp, path, size)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

// CreateAs is Create with the temporary name, in path's folder, as the caller
// wants it. It fails where that name is taken.
func CreateAs(temp, path string, size int64) (*File, error) {
	// os.CreateTemp would hide the file from other users.
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, writeError(path, err)
	}
	w := &File{path: path, f: f}
	if err := f.Truncate(size); err != nil {
		return nil, also(writeError(path, err), w.Abort())
	}
	return w, nil
}

// Open opens a file that another process has begun with CreateAs, to write a
// part of it. End it with Close.
func Open(temp, path string) (*File, error) {
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return nil, writeError(path, err)
	}
	return &File{path: path, f: f}, nil
}

// WriteAt writes p at offset off.
func (w *File) WriteAt(p []byte, off int64) error {
	if _, err := w.f.WriteAt(p, off); err != nil {
		return writeError(w.path, err)
	}
	return nil
}

// Close waits until the disk has the bytes. The file keeps its temporary name.
func (w *File) Close() error {
	if err := also(w.f.Sync(), w.f.Close()); err != nil {
		return writeError(w.path, err)
	}
	return nil
}

// Commit waits until the disk has the bytes and gives the file its name, in
// place of one that had it. Where it fails nothing is left behind.
func (w *File) Commit() error {
	if err := w.Close(); err != nil {
		return also(err, os.Remove(w.f.Name()))
	}
	if err := os.Rename(w.f.Name(), w.path); err != nil {
		return also(writeError(w.path, err), os.Remove(w.f.Name()))
	}
	return syncFolder(w.path)
}

// Abort removes what was written. It must not follow Commit.
func (w *File) Abort() error {
	return also(w.f.Close(), os.Remove(w.f.Name()))
}

// Write writes a small file whole.
func Write(path string, data []byte) error {
	w, err := Create(path, int64(len(data)))
	if err != nil {
		return err
	}
	if err := w.WriteAt(data, 0); err != nil {
		return also(err, w.Abort())
	}
	return w.Commit()
}

// MakeFolder makes a folder and those that it lies in. undo, for a failure
// afterwards, removes those of them that were not there before, as far as
// nothing lies in them. Errors: not_allowed.
func MakeFolder(dir string) (undo func() error, err error) {
	var made []string // innermost first
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, os.ErrNotExist) {
			break
		}
		made = append(made, at)
	}
	undo = func() error {
		for _, d := range made {
			err := os.Remove(d)
			switch {
			case errors.Is(err, syscall.ENOTEMPTY):
				return nil // another's files lie there by now
			case err != nil && !errors.Is(err, os.ErrNotExist):
				return writeError(d, err)
			}
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, also(&recovery.Error{Class: recovery.NotAllowed, Op: "create", File: dir, Err: err}, undo())
	}
	return undo, nil
}

// syncFolder waits until the disk knows path's name.
func syncFolder(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return writeError(path, err)
	}
	// Some file systems cannot sync a folder and say so; the name is theirs
	// to keep then.
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return also(writeError(path, err), dir.Close())
	}
	return dir.Close()
}

// writeError classifies what the system said about writing path.
func writeError(path string, err error) error {
	e := &recovery.Error{Class: recovery.Unavailable, Op: "write", File: filepath.Clean(path), Err: err}
	var pe *os.PathError
	if errors.As(err, &pe) {
		e.Err = pe.Err // the temporary name would only puzzle
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		e.Class, e.Hint = recovery.NotFound, "create the folder first"
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Class = recovery.NotAllowed
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		e.Class, e.Hint = recovery.OutOfCapacity, "free space, or write elsewhere"
	}
	return e
}

// also adds an error of cleaning up to the one that made it necessary.
func also(err, cleaning error) error {
	if err == nil || cleaning == nil {
		return cmp.Or(err, cleaning)
	}
	return fmt.Errorf("%w; and then: %w", err, cleaning)
}
