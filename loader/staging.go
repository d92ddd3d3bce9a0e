package loader

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// staging is the memory that a node uses besides its arenas: buffers that are
// reused, never more of them than the budget, kept outside the Go heap so
// that the collector neither scans nor moves the account. Who asks first is
// served first, so that a large request is not starved by small ones.
type staging struct {
	budget int64
	credit *semaphore.Weighted

	mu     sync.Mutex
	free   map[int64][][]byte // idle buffers, by size
	mapped int64              // bytes of all buffers, idle ones included
	peak   int64
}

// minBuffer is the size that buffers are a multiple of.
const minBuffer = 64 << 10

func newStaging(budget int64) *staging {
	return &staging{budget: budget, credit: semaphore.NewWeighted(budget), free: map[int64][][]byte{}}
}

// class rounds a size up to one of four sizes in each power of two, so that
// buffers fit again.
func class(n int64) int64 {
	step := max(minBuffer, int64(1)<<max(bits.Len64(uint64(n))-3, 0))
	return (n + step - 1) / step * step
}

// get returns one buffer of at least each of the given sizes (nil for 0); put
// gives each back. It waits for others to give theirs back, and fails with
// class out_of_capacity where the whole budget is not enough.
func (s *staging) get(ctx context.Context, sizes ...int64) ([][]byte, error) {
	sizes = slices.Clone(sizes)
	var need, sum int64
	for i, n := range sizes {
		need += n
		sizes[i] = class(n)
		sum += sizes[i]
	}
	if need > s.budget-minBuffer*int64(len(sizes)) {
		return nil, &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage",
			Err:  fmt.Errorf("a chunk needs %d bytes of staging memory, the budget is %d", need, s.budget),
			Hint: "raise the staging budget or plan smaller chunks"}
	}
	if sum > s.budget { // no room for classes
		sum = 0
		for i, n := range sizes {
			sizes[i] = (n + minBuffer - 1) / minBuffer * minBuffer
			sum += sizes[i]
		}
	}
	if err := s.credit.Acquire(ctx, sum); err != nil {
		return nil, ctxOr(ctx, err)
	}
	buffers := make([][]byte, len(sizes))
	for i, size := range sizes {
		if size == 0 {
			continue
		}
		var err error
		if buffers[i], err = s.take(size); err != nil {
			for _, b := range buffers[:i] {
				s.put(b)
			}
			for _, rest := range sizes[i:] {
				s.credit.Release(rest)
			}
			return nil, err
		}
	}
	return buffers, nil
}

// take reuses an idle buffer of the size or maps one, giving idle ones of
// other sizes back where the budget asks for it.
func (s *staging) take(size int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if list := s.free[size]; len(list) > 0 {
		s.free[size] = list[:len(list)-1]
		return list[len(list)-1], nil
	}
	s.shrink(s.budget - size)
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage", Err: fmt.Errorf("map %d bytes: %w", size, err)}
	}
	// Huge pages are a wish: without them the buffer only costs more faults.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	s.mapped += size
	s.peak = max(s.peak, s.mapped)
	return b, nil
}

// put gives a buffer of get back.
func (s *staging) put(b []byte) {
	if b == nil {
		return
	}
	size := int64(cap(b))
	s.mu.Lock()
	s.free[size] = append(s.free[size], b[:size])
	s.mu.Unlock()
	s.credit.Release(size)
}

// trim gives all idle buffers back to the system.
func (s *staging) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shrink(0)
}

// shrink unmaps idle buffers until no more than limit bytes are mapped, or
// none is idle. s.mu is held.
func (s *staging) shrink(limit int64) {
	for size, list := range s.free {
		for len(list) > 0 && s.mapped > limit {
			b := list[len(list)-1]
			list = list[:len(list)-1]
			if unix.Munmap(b) == nil {
				s.mapped -= size
			}
		}
		s.free[size] = list
	}
}

func (s *staging) peakBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
