package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// staging is the memory that a node uses besides its arenas: regions, together
// no larger than the budget, outside the Go heap, that buffers are cut from. Once
// a device needs pinned memory half of the budget is that. Who asks first is
// served first, so that a large request is not starved by small ones.
type staging struct {
	budget int64

	mu      sync.Mutex
	pages   region
	pinned  region
	pin     pinner     // what makes pinned memory; nil as long as nobody needs it
	waiting []*request // oldest first
	peak    int64      // the most that was ever present
}

// pinner makes memory that devices copy from and to at their full rate, and
// returns what frees it. device.Pin is one, for a device.
type pinner func(bytes int64) (memory []byte, free func() error, err error)

// request is a get that waits for room: of pinned memory for the first size, of
// pages for the others.
type request struct {
	sizes   []int64
	buffers [][]byte
	err     error
	ready   chan struct{} // closed when buffers, or err, are there

	lacksPinned bool // it waits for pinned memory, not for pages
}

// pages returns how many bytes of pages are asked for.
func (r *request) pages() (n int64) {
	for _, size := range r.sizes[1:] {
		n += size
	}
	return n
}

// stagingAlign is what buffers start and end at: pages of any machine, and
// sectors of any disk.
const stagingAlign = 64 << 10

func newStaging(budget int64) *staging { return &staging{budget: budget} }

// get returns one buffer of at least each of the given sizes (nil for 0); put
// gives each back. It waits for others to give theirs back, and fails with
// class out_of_capacity where the whole budget is not enough.
func (s *staging) get(ctx context.Context, sizes ...int64) ([][]byte, error) {
	_, b, err := s.getPinned(ctx, 0, sizes...)
	return b, err
}

// getPinned is get for one buffer of pinned memory besides, which usePinned has
// made ready. It gives all buffers or none: whoever waits for some holds none.
func (s *staging) getPinned(ctx context.Context, pinned int64, sizes ...int64) ([]byte, [][]byte, error) {
	r := &request{sizes: append([]int64{pinned}, sizes...), ready: make(chan struct{})}
	for i, n := range r.sizes {
		r.sizes[i] = (n + stagingAlign - 1) / stagingAlign * stagingAlign
	}
	s.mu.Lock()
	s.waiting = append(s.waiting, r)
	s.serve()
	s.mu.Unlock()
	select {
	case <-r.ready:
		if r.err != nil {
			return nil, nil, r.err
		}
		return r.buffers[0], r.buffers[1:], nil
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
	return nil, nil, context.Cause(ctx)
}

// usePinned makes half of the budget pinned memory, once: for all devices, since
// each reaches what any of them pinned. It returns when that memory is there,
// and fails where it cannot hold the given number of bytes.
func (s *staging) usePinned(ctx context.Context, pin pinner, largest int64) error {
	s.mu.Lock()
	if s.pin == nil {
		s.pin = pin
		s.serve() // what waits may never fit now
	}
	s.mu.Unlock()
	b, _, err := s.getPinned(ctx, max(largest, 1))
	s.put(b)
	return err
}

// rooms returns how large the regions may be.
func (s *staging) rooms() (pinned, pages int64) {
	if s.pin != nil {
		pinned = s.budget / 2 / stagingAlign * stagingAlign
	}
	return pinned, s.budget - pinned
}

// serve gives buffers to those who wait, until the first that must wait longer.
// Who wants pinned memory alone overtakes those that lack pages: whoever holds
// pages may be sending to it. s.mu is held.
func (s *staging) serve() {
	for i := 0; i < len(s.waiting); {
		r := s.waiting[i]
		if i > 0 && r.pages() > 0 {
			i++
			continue
		}
		done, err := s.cut(r)
		switch {
		case done || err != nil:
			r.err = err
			s.waiting = slices.Delete(s.waiting, i, i+1)
			close(r.ready)
		case r.lacksPinned:
			return
		default:
			i++
		}
	}
}

// cut takes all of a request's buffers, or none. s.mu is held.
func (s *staging) cut(r *request) (bool, error) {
	pinned, pages := s.rooms()
	need := r.pages()
	if need > pages {
		return false, overBudget("staging memory", need, pages)
	}
	if r.sizes[0] > pinned {
		return false, overBudget("pinned staging memory", r.sizes[0], pinned)
	}
	r.lacksPinned = true // until it is found
	if ready, err := s.reserve(r.sizes[0] > 0, pinned, pages); !ready {
		return false, err
	}
	r.buffers = make([][]byte, len(r.sizes))
	for i, size := range r.sizes {
		from, limit := &s.pages, pages
		if i == 0 {
			from, limit = &s.pinned, pinned
		}
		r.lacksPinned = i == 0
		var ok bool
		if r.buffers[i], ok = from.take(size, limit); !ok {
			for _, b := range r.buffers[:i] {
				s.giveBack(b)
			}
			return false, nil
		}
	}
	for _, b := range r.buffers[1:] {
		s.pages.reach(b)
	}
	s.peak = max(s.peak, s.pages.high+s.pinned.high)
	return true, nil
}

func overBudget(what string, need, budget int64) error {
	return &recovery.Error{Class: recovery.OutOfCapacity, Op: "stage",
		Err:  fmt.Errorf("a chunk needs %d bytes of %s, the budget is %d", need, what, budget),
		Hint: "raise the staging budget or plan smaller chunks"}
}

// reserve makes the regions, as far as they are wanted and not there. It is not
// ready as long as pages are in use that pinned memory is to replace. s.mu is
// held.
func (s *staging) reserve(wantPinned bool, pinned, pages int64) (ready bool, err error) {
	if s.pages.memory == nil {
		if s.pages, err = mapPages(max(s.budget/stagingAlign*stagingAlign, stagingAlign)); err != nil {
			return false, err
		}
	}
	if !wantPinned || s.pinned.memory != nil {
		return true, nil
	}
	if ready, err = s.pages.shrink(pages); !ready || err != nil {
		return false, err
	}
	if s.pinned.memory, s.pinned.free, err = s.pin(pinned); err != nil {
		return false, err
	}
	s.pinned.high = pinned
	return true, nil
}

// put gives a buffer of get or getPinned back.
func (s *staging) put(b []byte) {
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(b)
	s.serve()
}

func (s *staging) giveBack(b []byte) {
	if s.pinned.owns(b) {
		s.pinned.release(b)
	} else {
		s.pages.release(b)
	}
}

// prefault makes the first n bytes of the pages present, as many of them as the
// budget allows: what a load will use, cleared before it is timed.
func (s *staging) prefault(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pinned, pages := s.rooms()
	if _, err := s.reserve(false, pinned, pages); err != nil {
		return err
	}
	if err := s.pages.populate(min((n+stagingAlign-1)/stagingAlign*stagingAlign, pages)); err != nil {
		return err
	}
	s.peak = max(s.peak, s.pages.high+s.pinned.high)
	return nil
}

// trim gives the pages back to the system unless some are in use.
func (s *staging) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.pages.drop() // tried again
}

// close is trim, and gives pinned memory back too: the budget is whole again.
func (s *staging) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errors.Join(s.pages.drop(), s.pinned.drop())
	if s.pinned.memory == nil && len(s.waiting) == 0 {
		s.pin = nil
	}
	return err
}

func (s *staging) presentBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pages.high + s.pinned.high
}

func (s *staging) peakBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
