package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// Member is this process's place in the cluster.
type Member struct {
	lease       *lease
	incarnation uint64
	changed     chan struct{}
	ctx         context.Context
	cancel      context.CancelCauseFunc
	done        chan struct{}

	mu    sync.Mutex
	value []byte // what the lease says
}

// Join takes the lease of a worker's name and keeps it. An older life of the
// same name is put out at once. The caller ends it with Leave.
func (c *Cluster) Join(ctx context.Context, w messages.Worker) (*Member, error) {
	if err := messages.CheckToken("worker name", w.Name); err != nil {
		return nil, err
	}
	value, err := json.Marshal(w)
	if err != nil {
		return nil, classify("join", err)
	}
	l := &lease{c: c, kv: c.members, key: w.Name, mine: func(v []byte) bool {
		var held messages.Worker
		return json.Unmarshal(v, &held) == nil && held.Incarnation == w.Incarnation
	}}
	if err := l.takeOver(ctx, value, w.Incarnation); err != nil {
		return nil, err
	}
	m := &Member{lease: l, incarnation: w.Incarnation, changed: make(chan struct{}, 1), done: make(chan struct{}), value: value}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	go func() {
		defer close(m.done)
		m.cancel(l.keep(m.ctx, m.changed, m.renew))
	}()
	return m, nil
}

// takeOver takes the lease, from an older life of the same worker if need be.
// That somebody holds it is believed when their lease was seen: the client says
// so too where its time ran out after it had found the mark of an ended lease.
func (l *lease) takeOver(ctx context.Context, value []byte, incarnation uint64) error {
	for {
		err := l.take(ctx, value)
		if recovery.ClassOf(err) != recovery.Stale {
			return err
		}
		e, err := l.kv.Get(ctx, l.key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // it ended in between
		} else if err != nil {
			return classify("join as "+l.key, err)
		}
		var held messages.Worker
		if json.Unmarshal(e.Value(), &held) == nil && held.Incarnation > incarnation {
			return &recovery.Error{Class: recovery.Stale, Op: "join as " + l.key, Err: errors.New("a newer worker of this name is in the cluster"), Hint: "give it another --name"}
		}
		l.revision = e.Revision()
		if err = l.publish(ctx, value); recovery.ClassOf(err) != recovery.Stale {
			return err
		}
	}
}

// renew writes the lease, and takes it again where it ended while NATS could
// not be reached: what this worker holds is still there.
func (m *Member) renew(ctx context.Context) error {
	m.mu.Lock()
	value := m.value
	m.mu.Unlock()
	err := m.lease.write(ctx, value)
	if recovery.ClassOf(err) != recovery.Stale {
		return err
	}
	return m.lease.takeOver(ctx, value, m.incarnation)
}

// Update changes what the lease says, such as free room. It does not block.
func (m *Member) Update(w messages.Worker) error {
	value, err := json.Marshal(w)
	if err != nil {
		return classify("update lease", err)
	}
	m.mu.Lock()
	m.value = value
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default: // a renewal that will read the value is due already
	}
	return nil
}

// Context is done when the member has left, or when a newer worker of the
// same name has taken its place; the cause is then of class Stale.
func (m *Member) Context() context.Context { return m.ctx }

// Leave ends the lease at once.
func (m *Member) Leave() error {
	m.cancel(context.Canceled)
	<-m.done
	if recovery.ClassOf(context.Cause(m.ctx)) == recovery.Stale {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.lease.c.ttl) // by then it has ended by itself
	defer cancel()
	return m.lease.release(ctx)
}
