package device

import (
	"context"

	"github.com/gantry-ml/gantry/recovery"
)

// Arena is one rank's memory on its device: one allocation, zeroed, aligned
// to at least a page. Its owner closes it once, after the last reader and
// writer are done.
type Arena interface {
	// Device is the id of the device, such as "cpu" or "cuda:0".
	Device() string
	// Size is the arena's size in bytes.
	Size() int64
	// Host is the arena's memory where the CPU can address it, nil elsewhere.
	// Disjoint ranges may be written from several goroutines.
	Host() []byte
	// Prefault makes the memory present with the given number of threads (0
	// is one per core), so that placing does not wait for page faults. It
	// changes no byte; without it an arena works, slower. It stops at the
	// next part when ctx ends.
	Prefault(ctx context.Context, threads int) error
	// CopyIn copies p to offset off, which need not be host memory.
	CopyIn(off int64, p []byte) error
	// CopyOut copies len(p) bytes from offset off into p.
	CopyOut(p []byte, off int64) error
	// Hold keeps the memory for somebody who uses it where it lies, such as a
	// session over it, until release is called, once: Close fails until then,
	// and frees nothing.
	Hold() (release func(), err error)
	// Close frees the memory.
	Close() error
}

// NewArena makes an arena of the given size in bytes on the device id: "cpu" or
// "cuda:N". A size that the device cannot give now is of class out_of_capacity,
// as is a device that is not there or cannot be placed on.
func NewArena(id string, bytes int64) (Arena, error) {
	switch {
	case bytes < 0:
		return nil, recovery.Errorf(recovery.Usage, "device: arena of %d bytes", bytes)
	case id == CPU:
		return newHostArena(bytes)
	}
	return newCUDAArena(id, bytes)
}
