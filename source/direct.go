package source

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// directAlign is what O_DIRECT wants of offsets, lengths and memory: the
	// blocks of any disk and file system in use. Where it is not enough the
	// first read says so, and pread is used from then on.
	directAlign = 4 << 10
	// directMin is the least that is read around the page cache: headers are
	// read in small parts, which the kernel reads ahead.
	directMin = 128 << 10
	// directPart is the most that is read at once.
	directPart = 1 << 20
)

// direct reads a file around the page cache: what is read once needs no place
// there, and the disk is asked for all of it at once. The same file is open
// without O_DIRECT too, for what this cannot do.
type direct struct {
	f       *os.File
	refused atomic.Bool
}

// openDirect opens what f has open once more, with O_DIRECT; nil where its
// file system does not have that.
func openDirect(f *os.File) *direct {
	// By its descriptor, so that it is the same file whatever its name is now.
	d, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return &direct{f: d}
}

// bounces are aligned buffers of directPart and a block at each end. What is
// asked for is seldom aligned in the file: tensors lie where headers end.
var bounces = sync.Pool{New: func() any {
	b := make([]byte, directPart+3*directAlign)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign
	b = b[skip:]
	return &b
}}

// read fills p from off, and reports whether it could.
func (d *direct) read(p []byte, off int64) bool {
	if d == nil || len(p) < directMin || d.refused.Load() {
		return false
	}
	buf := bounces.Get().(*[]byte)
	defer bounces.Put(buf)
	for len(p) > 0 {
		part := p[:min(len(p), directPart)]
		start := off / directAlign * directAlign
		stop := (off + int64(len(part)) + directAlign - 1) / directAlign * directAlign
		n, err := d.f.ReadAt((*buf)[:stop-start], start)
		if int64(n) < off-start+int64(len(part)) { // short, or failed: pread tells why
			if errors.Is(err, unix.EINVAL) {
				d.refused.Store(true)
			}
			return false
		}
		copy(part, (*buf)[off-start:])
		off, p = off+int64(len(part)), p[len(part):]
	}
	return true
}

func (d *direct) close() error {
	if d == nil {
		return nil
	}
	return d.f.Close()
}
