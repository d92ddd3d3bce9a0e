package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// staging is the memory that a node uses besides its arenas: one region as
// large as the budget, outside the Go heap, that buffers are cut from at the
// lowest address with room. So the same few pages are used over and over:
// fresh ones are cleared by the kernel first, which costs more than all that a
// load does with them. Who asks first is served first, so that a large
// request is not starved by small ones.
type staging struct {
	budget int64

	mu      sync.Mutex
	region  []byte // reserved at the first get; pages are there once touched
	used    []extent
	waiting []*request // oldest first
	high    int64      // bytes from the region's start that may be present
	peak    int64      // the most that high ever was
}

// extent is a range [start, stop) of the region.
type extent struct{ start, stop int64 }

func (e extent) len() int64 { return e.stop - e.start }

// request is a get that waits for room.
type request struct {
	sizes   []int64
	buffers [][]byte
	ready   chan struct{} // closed when buffers are there
}

// stagingAlign is what buffers start and end at: pages of any machine, and
// sectors of any disk.
const stagingAlign = 64 << 10

func newStaging(budget int64) *staging { return &staging{budget: budget} }

// get returns one buffer of at least each of the given sizes (nil for 0); put
// gives each back. It waits for others to give theirs back, and fails with
// class out_of_capacity where the whole budget is not enough.
func (s *staging) get(ctx context.Context, sizes ...int64) ([][]byte, error) {
	r := &request{sizes: slices.Clone(sizes), ready: make(chan struct{})}
	var need int64
	for i, n := range r.sizes {
		r.sizes[i] = (n + stagingAlign - 1) / stagingAlign * stagingAlign
		need += r.sizes[i]
	}
	if need > s.budget {
		return nil, &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage",
			Err:  fmt.Errorf("a chunk needs %d bytes of staging memory, the budget is %d", need, s.budget),
			Hint: "raise the staging budget or plan smaller chunks"}
	}
	s.mu.Lock()
	if err := s.reserve(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	s.waiting = append(s.waiting, r)
	s.serve()
	s.mu.Unlock()
	select {
	case <-r.ready:
		return r.buffers, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	at := slices.Index(s.waiting, r)
	if at >= 0 {
		s.waiting = slices.Delete(s.waiting, at, at+1)
		s.serve() // those behind it may fit
	}
	s.mu.Unlock()
	if at < 0 { // served in the meantime
		for _, b := range r.buffers {
			s.put(b)
		}
	}
	return nil, context.Cause(ctx)
}

// reserve maps the region, of which nothing is present yet. s.mu is held.
func (s *staging) reserve() error {
	if s.region != nil {
		return nil
	}
	size := max(s.budget/stagingAlign*stagingAlign, stagingAlign)
	m, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage", Err: fmt.Errorf("map %d bytes: %w", size, err)}
	}
	// Huge pages are a wish: without them the region only costs more faults.
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	s.region = m
	return nil
}

// serve gives buffers to those who wait, until the first that must wait
// longer. s.mu is held.
func (s *staging) serve() {
	for len(s.waiting) > 0 {
		r := s.waiting[0]
		if !s.cut(r) {
			return
		}
		s.waiting = s.waiting[1:]
		close(r.ready)
	}
}

// cut takes all of a request's buffers, or none. s.mu is held.
func (s *staging) cut(r *request) bool {
	taken := make([]extent, len(r.sizes))
	for i, size := range r.sizes {
		if size == 0 {
			continue
		}
		e, ok := s.take(size)
		if !ok {
			for _, e := range taken[:i] {
				s.release(e)
			}
			return false
		}
		taken[i] = e
	}
	r.buffers = make([][]byte, len(taken))
	for i, e := range taken {
		if e.len() > 0 {
			r.buffers[i] = s.region[e.start:e.stop:e.stop]
			s.high = max(s.high, e.stop)
		}
	}
	s.peak = max(s.peak, s.high)
	return true
}

// take marks the lowest range of the given size that is free as used.
func (s *staging) take(size int64) (extent, bool) {
	at, i := int64(0), 0
	for ; i < len(s.used) && s.used[i].start-at < size; i++ {
		at = s.used[i].stop
	}
	if int64(len(s.region))-at < size {
		return extent{}, false
	}
	e := extent{at, at + size}
	s.used = slices.Insert(s.used, i, e)
	return e, true
}

func (s *staging) release(e extent) {
	if e.len() == 0 {
		return
	}
	i, ok := slices.BinarySearchFunc(s.used, e, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	if !ok || s.used[i] != e {
		panic("loader: a staging buffer is given back that was not taken")
	}
	s.used = slices.Delete(s.used, i, i+1)
}

// put gives a buffer of get back.
func (s *staging) put(b []byte) {
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	start := int64(uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&s.region[0])))
	s.release(extent{start, start + int64(len(b))})
	s.serve()
}

// prefault makes the first n bytes of the region present, as much of them as
// the budget allows: what a load will use, cleared before it is timed.
func (s *staging) prefault(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reserve(); err != nil {
		return err
	}
	n = min((n+stagingAlign-1)/stagingAlign*stagingAlign, int64(len(s.region)))
	if n <= s.high {
		return nil
	}
	// A kernel before Linux 5.14 does not know the advice: then the pages come
	// as they are touched.
	if err := unix.Madvise(s.region[:n], unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
		return &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage", Err: fmt.Errorf("populate %d bytes: %w", n, err)}
	}
	s.high = n
	s.peak = max(s.peak, n)
	return nil
}

// trim gives the region back to the system unless some of it is in use.
func (s *staging) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.region != nil && len(s.used) == 0 && unix.Munmap(s.region) == nil {
		s.region, s.high = nil, 0
	}
}

func (s *staging) peakBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
