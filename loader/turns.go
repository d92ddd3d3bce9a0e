package loader

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// turns bounds how many chunks are worked on at once, and shares that among
// jobs: of the jobs that wait that one goes next which has had the fewest bytes.
// So a small job that comes while a large one has much waiting gets every other
// byte, and not the last ones. It is start-time fair queuing (Goyal, Vin and
// Cheng, 1996), with one queue for each job that is served in order.
type turns struct {
	limit int

	mu    sync.Mutex
	taken int
	now   int64             // virtual time: the start of the last that was let in, bytes
	came  uint64            // numbers waiters
	jobs  map[string]*queue // by id
}

// queue is what waits of one job. Its next waiter starts at a virtual time: the
// end of the one before it, or, after a pause, when it came.
type queue struct {
	start   int64
	waiting []*waiter
}

// waiter is a chunk that waits.
type waiter struct {
	bytes int64
	came  uint64
	ready chan struct{} // closed when it may go
}

func newTurns(limit int) *turns { return &turns{limit: limit, jobs: map[string]*queue{}} }

// acquire waits until a chunk of so many bytes may go; release lets the next go.
func (t *turns) acquire(ctx context.Context, job string, bytes int64) error {
	w := t.enter(job, bytes)
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		t.leave(job, w)
		return context.Cause(ctx)
	}
}

// enter has a chunk wait.
func (t *turns) enter(job string, bytes int64) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came++
	w := &waiter{bytes, t.came, make(chan struct{})}
	q := t.jobs[job]
	if q == nil {
		q = &queue{}
		t.jobs[job] = q
	}
	if len(q.waiting) == 0 {
		q.start = max(q.start, t.now)
	}
	q.waiting = append(q.waiting, w)
	t.serve()
	return w
}

// leave takes a waiter back, or what it was given.
func (t *turns) leave(job string, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.ready:
		t.taken--
		t.serve()
	default:
		q := t.jobs[job]
		q.waiting = slices.DeleteFunc(q.waiting, func(x *waiter) bool { return x == w })
	}
}

func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	t.serve()
}

// serve lets in whose turn it is, as long as there is room, and forgets jobs
// that have caught up. t.mu is held.
func (t *turns) serve() {
	for t.taken < t.limit {
		var next *queue
		for id, q := range t.jobs {
			switch {
			case len(q.waiting) == 0 && q.start <= t.now:
				delete(t.jobs, id)
			case len(q.waiting) > 0 && (next == nil || cmp.Or(cmp.Compare(q.start, next.start), cmp.Compare(q.waiting[0].came, next.waiting[0].came)) < 0):
				next = q
			}
		}
		if next == nil {
			return
		}
		w := next.waiting[0]
		next.waiting = next.waiting[1:]
		t.now = next.start
		next.start += max(w.bytes, 1)
		t.taken++
		close(w.ready)
	}
}
