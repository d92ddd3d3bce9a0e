package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// region is memory that buffers are cut from at the lowest address with room. So
// the same few pages are used over and over: fresh ones are cleared by the
// kernel first, which costs more than all that a load does with them.
type region struct {
	memory []byte
	free   func() error // gives it back
	used   []extent
	high   int64 // bytes from the start that may be present
}

// extent is a range [start, stop) of a region.
type extent struct{ start, stop int64 }

// mapPages maps memory of which nothing is present yet.
func mapPages(size int64) (region, error) {
	m, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage", Err: fmt.Errorf("map %d bytes: %w", size, err)}
	}
	// Huge pages are a wish: without them the region only costs more faults.
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	return region{memory: m, free: func() error { return unix.Munmap(m) }}, nil
}

// take cuts a buffer of the given size below limit, nil of 0.
func (r *region) take(size, limit int64) ([]byte, bool) {
	if size == 0 {
		return nil, true
	}
	at, i := int64(0), 0
	for ; i < len(r.used) && r.used[i].start-at < size; i++ {
		at = r.used[i].stop
	}
	if min(limit, int64(len(r.memory)))-at < size {
		return nil, false
	}
	e := extent{at, at + size}
	r.used = slices.Insert(r.used, i, e)
	return r.memory[e.start:e.stop:e.stop], true
}

// owns says whether a buffer was cut from the region.
func (r *region) owns(b []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(r.memory)))
	return at < uintptr(len(r.memory))
}

// extentOf returns where a buffer was cut from.
func (r *region) extentOf(b []byte) extent {
	start := int64(uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&r.memory[0])))
	return extent{start, start + int64(len(b))}
}

// reach says that a buffer is about to be written to.
func (r *region) reach(b []byte) {
	if len(b) > 0 {
		r.high = max(r.high, r.extentOf(b).stop)
	}
}

// release gives a buffer back.
func (r *region) release(b []byte) {
	if len(b) == 0 {
		return
	}
	e := r.extentOf(b)
	i, ok := slices.BinarySearchFunc(r.used, e, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	if !ok || r.used[i] != e {
		panic("loader: a staging buffer is given back that was not taken")
	}
	r.used = slices.Delete(r.used, i, i+1)
}

// populate makes the first n bytes present.
func (r *region) populate(n int64) error {
	if n <= r.high {
		return nil
	}
	// A kernel before Linux 5.14 does not know the advice: then the pages come
	// as they are touched.
	if err := unix.Madvise(r.memory[:n], unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
		return &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage", Err: fmt.Errorf("populate %d bytes: %w", n, err)}
	}
	r.high = n
	return nil
}

// shrink gives what lies beyond n bytes back to the system, once none of it is
// in use.
func (r *region) shrink(n int64) (done bool, err error) {
	if len(r.used) > 0 && r.used[len(r.used)-1].stop > n {
		return false, nil
	}
	if r.high <= n {
		return true, nil
	}
	if err := unix.Madvise(r.memory[n:], unix.MADV_DONTNEED); err != nil {
		return false, fmt.Errorf("loader: give staging memory back: %w", err)
	}
	r.high = n
	return true, nil
}

// drop gives the region back to the system unless some of it is in use.
func (r *region) drop() error {
	if r.memory == nil || len(r.used) > 0 {
		return nil
	}
	err := r.free()
	*r = region{}
	return err
}
