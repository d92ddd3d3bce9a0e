package transfer

import (
	"context"
	"slices"
	"sync"
)

// peer is the streams to one address, and who waits for one. Each job has a
// queue of its own, and they take turns.
type peer struct {
	addr string

	mu      sync.Mutex
	closed  bool
	streams []*stream
	dialing int
	waiting map[string][]*waiter // by job
	jobs    []string             // those that wait, in the order of their turns
}

// waiter waits for a stream. ready is closed when it has one, the right to
// dial one (nil), or an error.
type waiter struct {
	ready  chan struct{}
	stream *stream
	err    error
}

// acquire waits for a stream that may be written to, which the caller gives
// back by written and release. Where it returns nil the caller dials one and
// says so by dialed.
func (p *peer) acquire(ctx context.Context, job string) (*stream, error) {
	w := &waiter{ready: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed()
	}
	if len(p.waiting[job]) == 0 {
		p.jobs = append(p.jobs, job)
	}
	p.waiting[job] = append(p.waiting[job], w)
	p.grant()
	p.mu.Unlock()
	select {
	case <-w.ready:
		return w.stream, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-w.ready: // too late to leave the queue
		p.giveBack(w)
	default:
		p.leave(job, w)
	}
	return nil, ctx.Err()
}

// grant gives streams to those that wait, as far as there are any. The lock is
// held.
func (p *peer) grant() {
	for len(p.jobs) > 0 {
		s, ok := p.free()
		if !ok {
			return
		}
		job := p.jobs[0]
		w := p.waiting[job][0]
		p.jobs = append(p.jobs[1:], job)
		p.leave(job, w)
		if s == nil {
			p.dialing++
		} else {
			s.writing = true
			s.pending++
		}
		w.stream = s
		close(w.ready)
	}
}

// free finds a stream with nothing under way, or else room for another one
// (nil), or else a stream that awaits a result only. The lock is held.
func (p *peer) free() (s *stream, ok bool) {
	p.streams = slices.DeleteFunc(p.streams, (*stream).broken)
	for _, c := range p.streams {
		switch {
		case c.pending == 0:
			return c, true
		case !c.writing && c.pending < maxPending:
			s = c
		}
	}
	if len(p.streams)+p.dialing < maxStreams {
		return nil, true
	}
	return s, s != nil
}

// leave takes w out of its job's queue. The lock is held.
func (p *peer) leave(job string, w *waiter) {
	left := slices.DeleteFunc(p.waiting[job], func(x *waiter) bool { return x == w })
	if len(left) > 0 {
		p.waiting[job] = left
		return
	}
	delete(p.waiting, job)
	p.jobs = slices.DeleteFunc(p.jobs, func(x string) bool { return x == job })
}

// giveBack undoes a grant that nobody took. The lock is held.
func (p *peer) giveBack(w *waiter) {
	switch {
	case w.err != nil:
	case w.stream == nil:
		p.dialing--
	default:
		w.stream.writing = false
		w.stream.pending--
	}
	p.grant()
}

// dialed ends a dial, which came to nothing where s is nil; otherwise the
// caller has the stream as if it had acquired it.
func (p *peer) dialed(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	if s != nil {
		s.writing, s.pending = true, 1
		p.streams = append(p.streams, s)
		if p.closed {
			s.fail(errClosed())
		}
	}
	p.grant()
}

// written lets others write to s; the caller's piece is still under way.
func (p *peer) written(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.writing = false
	p.grant()
}

// release ends the caller's use of s.
func (p *peer) release(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.pending--
	p.grant()
}

// close ends the streams and all that wait for one.
func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.streams {
		s.fail(errClosed())
	}
	for _, queue := range p.waiting {
		for _, w := range queue {
			w.err = errClosed()
			close(w.ready)
		}
	}
	p.waiting, p.jobs = nil, nil
}
