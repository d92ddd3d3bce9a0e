package cluster

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/recovery"
)

// lease is a key that ends by itself unless it is renewed. It is used from one
// goroutine at a time.
type lease struct {
	c        *Cluster
	kv       jetstream.KeyValue
	key      string
	mine     func(value []byte) bool // whether a value was written by this holder
	revision uint64                  // of our last write
}

// take writes the key where there is none. Class Stale: somebody holds it.
func (l *lease) take(ctx context.Context, value []byte) error {
	rev, err := l.kv.Create(ctx, l.key, value, jetstream.KeyTTL(l.c.ttl))
	if err != nil {
		return classify("take lease "+l.key, err)
	}
	l.revision = rev
	return nil
}

// write renews the lease with a new value, over the revision that we wrote
// last. kv.Update would drop the key's TTL, so it publishes to the bucket's
// subject. Class Stale: the lease has ended.
func (l *lease) write(ctx context.Context, value []byte) error {
	err := l.publish(ctx, value)
	if recovery.ClassOf(err) != recovery.Stale {
		return err
	}
	if ours, lookErr := l.look(ctx); lookErr != nil {
		return lookErr
	} else if !ours {
		return err
	}
	return l.publish(ctx, value)
}

// look takes the revision of the lease if this holder wrote it: a write whose
// answer was lost, or not waited for, has moved it without our knowing.
func (l *lease) look(ctx context.Context) (ours bool, err error) {
	e, err := l.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return false, nil
	case err != nil:
		return false, classify("see lease "+l.key, err)
	case !l.mine(e.Value()):
		return false, nil
	}
	l.revision = e.Revision()
	return true, nil
}

func (l *lease) publish(ctx context.Context, value []byte) error {
	ack, err := l.c.js.Publish(ctx, "$KV."+l.kv.Bucket()+"."+l.key, value,
		jetstream.WithMsgTTL(l.c.ttl), jetstream.WithExpectLastSequencePerSubject(l.revision))
	if err != nil {
		return classify("renew lease "+l.key, err)
	}
	l.revision = ack.Sequence
	return nil
}

// release ends the lease at once, if it is still ours.
func (l *lease) release(ctx context.Context) error {
	err := l.purge(ctx)
	if recovery.ClassOf(err) != recovery.Stale {
		return err
	}
	// It has ended, or a renewal that was broken off was written all the same.
	if ours, err := l.look(ctx); err != nil || !ours {
		return err
	}
	return l.purge(ctx)
}

func (l *lease) purge(ctx context.Context) error {
	return classify("release lease "+l.key, l.kv.Purge(ctx, l.key, jetstream.LastRevision(l.revision), jetstream.PurgeTTL(markerTTL)))
}

// keep calls renew every c.renew, and when changed is signalled, until ctx is
// done or renew says that the lease has ended. While NATS does not answer it
// tries on: whether the lease ended is NATS's to say, and writes are fenced.
func (l *lease) keep(ctx context.Context, changed <-chan struct{}, renew func(context.Context) error) error {
	tick := time.NewTicker(l.c.renew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
		try, cancel := context.WithTimeout(ctx, l.c.ttl/2)
		err := renew(try)
		cancel()
		switch {
		case recovery.ClassOf(err) == recovery.Stale:
			return err
		case err == nil:
			l.c.contact.heard(time.Now(), 2*l.c.renew)
		case gone(err): // the server came back without its store
			try, cancel := context.WithTimeout(ctx, l.c.ttl)
			if err := l.c.restore(try); err != nil && ctx.Err() == nil {
				slog.Warn("what NATS has lost is not there again yet", "error", err)
			}
			cancel()
		}
	}
}
