package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/gantry-ml/gantry/recovery"
)

// The keys of the leader's bucket. The lease's value names its holder; the
// other, which does not end, who led last, and in which epoch.
const (
	leaderKey = "leader"
	lastKey   = "last"
)

// Term is one leadership of this process.
type Term struct {
	epoch  uint64
	ctx    context.Context
	cancel context.CancelCauseFunc
	lease  *lease
	holder string
	done   chan struct{}
	lost   chan struct{}
}

// Lead blocks until this process holds the leader's lease, or ctx is done.
// The caller ends the term with Resign.
func (c *Cluster) Lead(ctx context.Context) (*Term, error) {
	holder := nuid.Next()
	l := &lease{c: c, kv: c.leader, key: leaderKey, mine: func(v []byte) bool { return string(v) == holder }}
	known := false // whether somebody has led, or does, as far as the store says
	for {
		_, err := c.leader.Get(ctx, lastKey)
		switch {
		case err == nil:
			known = true
		case gone(err):
			if err := c.restore(ctx); err != nil && ctx.Err() == nil {
				slog.Warn("what NATS has lost is not there again yet", "error", err)
			}
		case known && errors.Is(err, jetstream.ErrKeyNotFound):
			// The store was lost. Who led goes on, if it is there.
			known = false
			select {
			case <-time.After(2 * c.ttl):
			case <-ctx.Done():
			}
			continue
		}
		err = l.take(ctx, []byte(holder))
		if err == nil {
			_, err = c.leader.PutString(ctx, lastKey, lastValue(holder, l.revision))
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, classify("lead", ctx.Err())
		}
		known = known || recovery.ClassOf(err) == recovery.Stale
		if err := c.awaitVacancy(ctx); err != nil {
			return nil, err
		}
	}
	c.contact.heard(time.Now(), c.ttl)
	t := &Term{epoch: l.revision, lease: l, holder: holder, done: make(chan struct{}), lost: make(chan struct{}, 1)}
	t.ctx, t.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		defer close(t.done)
		t.cancel(l.keep(t.ctx, nil, t.renew))
	}()
	return t, nil
}

// renew writes the lease. One that has ended, since NATS was away, is taken
// again where nobody else has led meanwhile: what this process leads goes on,
// under its epoch.
func (t *Term) renew(ctx context.Context) error {
	err := t.lease.write(ctx, []byte(t.holder))
	if recovery.ClassOf(err) != recovery.Stale {
		return err
	}
	err = t.ledLast(ctx)
	if recovery.ClassOf(err) == recovery.NotFound {
		err = t.claim(ctx)
	}
	if err != nil {
		return err
	}
	if err := t.lease.take(ctx, []byte(t.holder)); err != nil {
		if recovery.ClassOf(err) == recovery.Stale {
			return t.lease.write(ctx, []byte(t.holder)) // Stale if it is not this process's
		}
		return err
	}
	return t.ledLast(ctx)
}

// claim writes down, in a store that was lost, that this term is the last. It
// goes on where nobody else has led meanwhile.
func (t *Term) claim(ctx context.Context) error {
	_, err := t.lease.kv.Create(ctx, lastKey, []byte(lastValue(t.holder, t.epoch)))
	if err = classify("lead on", err); err != nil {
		return err
	}
	select {
	case t.lost <- struct{}{}:
	default: // that is to be heard already
	}
	return nil
}

// StoreLost says that NATS came back without what it had stored: streams and
// buckets are there again, empty but for leases.
func (t *Term) StoreLost() <-chan struct{} { return t.lost }

// ledLast fails with class Stale where another has led since this term began.
func (t *Term) ledLast(ctx context.Context) error {
	e, err := t.lease.kv.Get(ctx, lastKey)
	if err != nil {
		return classify("see who led last", err)
	}
	if string(e.Value()) != lastValue(t.holder, t.epoch) {
		return recovery.Errorf(recovery.Stale, "another coordinator has led since")
	}
	return nil
}

// lastValue is what lies under lastKey.
func lastValue(holder string, epoch uint64) string { return fmt.Sprintf("%s %d", holder, epoch) }

// Begun fails with class stale where no term of that epoch, or of a later one,
// has begun.
func (c *Cluster) Begun(ctx context.Context, epoch uint64) error {
	e, err := c.leader.Get(ctx, lastKey)
	if err != nil {
		return classify("see who led last", err)
	}
	var holder string
	var last uint64
	if _, err := fmt.Sscan(string(e.Value()), &holder, &last); err != nil {
		return classify("see who led last", err)
	}
	if epoch > last {
		return recovery.Errorf(recovery.Stale, "epoch %d has not begun, the last is %d", epoch, last)
	}
	return nil
}

// Sure blocks until the lease was renewed a short time ago, as it always is
// unless this process was frozen or NATS away. It returns false when the term
// or ctx ends before.
func (t *Term) Sure(ctx context.Context) bool {
	tick := time.NewTicker(t.lease.c.renew / 8)
	defer tick.Stop()
	for !t.lease.c.contact.within(time.Now(), t.lease.c.ttl) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		case <-t.ctx.Done():
			return false
		}
	}
	return t.ctx.Err() == nil
}

// awaitVacancy returns when the lease may be free: it was released or ended,
// or a TTL has passed (a watch can miss its end when NATS itself went away).
func (c *Cluster) awaitVacancy(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, c.ttl)
	defer cancel()
	w, err := c.leader.Watch(wait, leaderKey, jetstream.MetaOnly())
	if err == nil {
		defer func() { _ = w.Stop() }() // the context has ended it, or does now
		for e := range w.Updates() {
			if e != nil && e.Operation() != jetstream.KeyValuePut {
				return nil
			}
		}
	}
	<-wait.Done()
	if ctx.Err() != nil {
		return classify("wait to lead", ctx.Err())
	}
	return nil
}

// Epoch is the revision of the key when the term began. A later term has a
// higher one; workers refuse commands of a lower one.
func (t *Term) Epoch() uint64 { return t.epoch }

// Context is done when the lease is lost or the term resigned. Its cause is
// of class Stale when it was lost.
func (t *Term) Context() context.Context { return t.ctx }

// Resign ends the term and gives the lease back at once, so that a standby
// need not wait for its end.
func (t *Term) Resign() error {
	t.cancel(context.Canceled)
	<-t.done
	if recovery.ClassOf(context.Cause(t.ctx)) == recovery.Stale {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.lease.c.ttl) // by then it has ended by itself
	defer cancel()
	return t.lease.release(ctx)
}
