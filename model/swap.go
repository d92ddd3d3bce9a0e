package model

import (
	"context"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// Swap holds the model in use and replaces it while readers finish on the old
// one: a model is closed when it was replaced and its last reader let go.
type Swap struct {
	mu  sync.Mutex
	now *tenant // nil once closed
}

// tenant is a model and its readers.
type tenant struct {
	m       *Model
	readers int
	leaving bool
	gone    chan struct{} // closed after m is
	err     error         // of closing m; set before gone is closed
}

// NewSwap returns a holder of m, which it closes in the end.
func NewSwap(m *Model) *Swap { return &Swap{now: newTenant(m)} }

func newTenant(m *Model) *tenant { return &tenant{m: m, gone: make(chan struct{})} }

// Acquire returns the model in use and a function that lets it go, to be
// called once the caller uses nothing of it any more. It fails with class
// stale once the Swap is closed.
func (s *Swap) Acquire() (*Model, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.now
	if t == nil {
		return nil, nil, recovery.Errorf(recovery.Stale, "model: the swap is closed")
	}
	t.readers++
	var once sync.Once
	return t.m, func() { once.Do(func() { s.release(t) }) }, nil
}

// Replace puts m in the place of the model in use, at once: whoever acquires
// from now on gets m. It returns when the old one is closed, with that error,
// or when ctx ends; the old one is closed all the same after its last reader.
// Where it fails with class stale the Swap is closed, and m is the caller's.
func (s *Swap) Replace(ctx context.Context, m *Model) error {
	s.mu.Lock()
	old := s.now
	if old == nil {
		s.mu.Unlock()
		return recovery.Errorf(recovery.Stale, "model: the swap is closed")
	}
	s.now = newTenant(m)
	s.mu.Unlock()
	return s.retire(ctx, old)
}

// Close ends the Swap and waits as Replace does.
func (s *Swap) Close(ctx context.Context) error {
	s.mu.Lock()
	old := s.now
	s.now = nil
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	return s.retire(ctx, old)
}

// retire closes a tenant's model after its last reader.
func (s *Swap) retire(ctx context.Context, t *tenant) error {
	s.mu.Lock()
	t.leaving = true
	free := t.readers == 0
	s.mu.Unlock()
	if free {
		t.close()
	}
	select {
	case <-t.gone:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Swap) release(t *tenant) {
	s.mu.Lock()
	t.readers--
	last := t.leaving && t.readers == 0
	s.mu.Unlock()
	if last {
		t.close()
	}
}

func (t *tenant) close() {
	t.err = t.m.Close()
	close(t.gone)
}
