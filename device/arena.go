package device

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
	// CopyIn copies p to offset off, which need not be host memory.
	CopyIn(off int64, p []byte) error
	// CopyOut copies len(p) bytes from offset off into p.
	CopyOut(p []byte, off int64) error
	// Close frees the memory.
	Close() error
}
