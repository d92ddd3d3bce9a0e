package source

import "context"

// File is one file of a source.
type File struct {
	Name string `json:"name"` // slash-separated, relative to the source's root
	Size int64  `json:"size"` // bytes
	// ID identifies the file's content for as long as the file is unchanged:
	// a digest or ETag, or modification time and inode. It says nothing about
	// the content itself, so two copies of one file may differ in it.
	ID string `json:"id"`
}

// Source is a place that holds a checkpoint's files. Its methods may be
// called from several goroutines.
type Source interface {
	// URI is what the source was opened by, without secrets. Open accepts it,
	// whatever the working directory.
	URI() string
	// Entry is the file that the URI names, or "" where it names a folder.
	Entry() string
	// Files lists the files beside the entry or in the folder, sorted by name.
	// It does not go into folders below.
	Files(ctx context.Context) ([]File, error)
	// Open opens one file. Its name must be one that stays inside the root:
	// otherwise the error is of class not_allowed.
	Open(ctx context.Context, name string) (Reader, error)
	// Close releases the source. Readers must have been closed.
	Close() error
}

// Reader reads ranges of one file. ReadAt may be called from several
// goroutines; Close once, after them.
type Reader interface {
	// File is what was opened.
	File() File
	// ReadAt fills p from offset off or fails; there are no short reads. It
	// fails with class source_changed where the file is no longer the one
	// that was opened, or does not hold the range.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// Close releases the file.
	Close() error
}

// Mapper is a Reader whose bytes are in memory already. A file that shrinks
// while it is mapped makes an access fault: callers of Range run under
// debug.SetPanicOnFault and report source_changed. ReadAt needs no such care.
type Mapper interface {
	Reader
	// Warm reports whether to use Range rather than ReadAt: always where a
	// mapping was asked for, else where the n bytes from off seem to be in
	// memory already.
	Warm(off, n int64) bool
	// Prepare maps the pages of n bytes from off at once, in less time than
	// faults take. Range does without as well.
	Prepare(off, n int64)
	// Range returns n bytes from off, valid until Close and not to be written.
	Range(off, n int64) ([]byte, error)
	// Verify fails with class source_changed where the file is no longer the
	// one that was opened. Call it after the bytes of a Range have been used.
	Verify() error
}
