package outfile

import (
	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/recovery"
)

// Tensors writes the tensors of a file whose header is written. Its bytes may
// be written in any order and from several goroutines; then call Commit, or
// Abort to leave nothing behind.
type Tensors struct {
	out     *File
	tensors []header.Tensor
	size    int64
}

// CreateTensors begins a file as Create does, with its first bytes. tensors
// have their places in it.
func CreateTensors(path string, tensors []header.Tensor, head []byte, size int64) (*Tensors, error) {
	out, err := Create(path, size)
	if err != nil {
		return nil, err
	}
	if err := out.WriteAt(head, 0); err != nil {
		return nil, also(err, out.Abort())
	}
	return &Tensors{out, tensors, size}, nil
}

// Tensors are the file's tensors with their places.
func (w *Tensors) Tensors() []header.Tensor { return w.tensors }

// Size is the file's size in bytes.
func (w *Tensors) Size() int64 { return w.size }

// WriteTensor writes p at offset off of tensor i.
func (w *Tensors) WriteTensor(i int, p []byte, off int64) error {
	t := &w.tensors[i]
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return recovery.Errorf(recovery.Usage, "write %d bytes at %d of tensor %q, which has %d", len(p), off, t.Name, t.Bytes)
	}
	return w.out.WriteAt(p, t.Offset+off)
}

// Commit gives the file its name, in place of one that had it, when its bytes
// are on the disk.
func (w *Tensors) Commit() error { return w.out.Commit() }

// Abort removes what was written. It must not follow Commit.
func (w *Tensors) Abort() error { return w.out.Abort() }
