package actors

import (
	"context"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// questions are what other systems were asked and have not answered yet, so
// that a question ends when who was asked is known to be gone. Its time-out is
// for what may take long, not for that.
type questions struct {
	mu   sync.Mutex
	open map[string]map[*question]bool // by address
}

type question struct{ end context.CancelCauseFunc }

// begin returns a context for a question to an address, and what to call when
// it is over.
func (q *questions) begin(ctx context.Context, addr string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &question{cancel}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open == nil {
		q.open = map[string]map[*question]bool{}
	}
	if q.open[addr] == nil {
		q.open[addr] = map[*question]bool{}
	}
	q.open[addr][one] = true
	return ctx, func() {
		cancel(nil)
		q.mu.Lock()
		defer q.mu.Unlock()
		if delete(q.open[addr], one); len(q.open[addr]) == 0 {
			delete(q.open, addr)
		}
	}
}

// gone ends all questions to an address, which fail with class worker_lost.
func (q *questions) gone(addr, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for one := range q.open[addr] {
		one.end(recovery.Errorf(recovery.WorkerLost, "no answer from %s: %s", addr, reason))
	}
}
