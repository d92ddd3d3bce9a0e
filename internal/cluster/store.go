package cluster

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// Jobs is the bucket of jobs, Models that of resident models.
type (
	Jobs   = Bucket[messages.Job]
	Models = Bucket[messages.Model]
)

// Bucket holds records of one kind by name. Every write compares and sets.
type Bucket[T any] struct {
	kv   jetstream.KeyValue
	what string
	name func(T) string
}

// Record is a value with the revision under which it lies.
type Record[T any] struct {
	Value    T
	Revision uint64
}

func newJobs(kv jetstream.KeyValue) *Jobs {
	return &Jobs{kv: kv, what: "job", name: func(j messages.Job) string { return j.Job }}
}

func newModels(kv jetstream.KeyValue) *Models {
	return &Models{kv: kv, what: "model", name: func(m messages.Model) string { return m.Name }}
}

// Put writes a record over the given revision, 0 for a new one, and returns
// its new revision. Class Stale: it has another revision now.
func (b *Bucket[T]) Put(ctx context.Context, value T, revision uint64) (uint64, error) {
	name := b.name(value)
	op := "write " + b.what + " " + name
	data, err := json.Marshal(value)
	if err != nil {
		return 0, classify(op, err)
	}
	if revision == 0 {
		revision, err = b.kv.Create(ctx, messages.Token(name), data)
	} else {
		revision, err = b.kv.Update(ctx, messages.Token(name), data, revision)
	}
	return revision, classify(op, err)
}

// Get returns a record. Class NotFound: there is none.
func (b *Bucket[T]) Get(ctx context.Context, name string) (Record[T], error) {
	e, err := b.kv.Get(ctx, messages.Token(name))
	if err != nil {
		return Record[T]{}, classify("read "+b.what+" "+name, err)
	}
	return b.decode(e)
}

// List returns all records, in no order.
func (b *Bucket[T]) List(ctx context.Context) ([]Record[T], error) {
	entries, err := list(ctx, b.kv)
	if err != nil {
		return nil, classify("list "+b.what+"s", err)
	}
	all := make([]Record[T], 0, len(entries))
	for _, e := range entries {
		r, err := b.decode(e)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Delete removes a record that has the given revision. Class Stale: it has
// another one now.
func (b *Bucket[T]) Delete(ctx context.Context, name string, revision uint64) error {
	return classify("delete "+b.what+" "+name, b.kv.Delete(ctx, messages.Token(name), jetstream.LastRevision(revision)))
}

// Watch sends the record, if there is one, and then each of its versions (the
// newest, where the reader is slow), until ctx is done; then it closes the
// channel.
func (b *Bucket[T]) Watch(ctx context.Context, name string) (<-chan Record[T], error) {
	w, err := b.kv.Watch(ctx, messages.Token(name), jetstream.IgnoreDeletes())
	if err != nil {
		return nil, classify("watch "+b.what+" "+name, err)
	}
	out := make(chan Record[T])
	go func() {
		defer close(out)
		defer func() { _ = w.Stop() }() // the context has ended it
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-w.Updates():
				if !ok {
					return
				}
				if e == nil {
					continue // all that was there has been said
				}
				r, err := b.decode(e)
				if err != nil {
					continue // the next version may be readable; Get reports it
				}
				select {
				case out <- r:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

func (b *Bucket[T]) decode(e jetstream.KeyValueEntry) (Record[T], error) {
	r := Record[T]{Revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), &r.Value); err != nil {
		return r, &recovery.Error{Class: recovery.Internal, Op: "read " + b.what + " " + e.Key(), Err: err}
	}
	return r, nil
}

// list returns all entries of a bucket.
func list(ctx context.Context, kv jetstream.KeyValue) ([]jetstream.KeyValueEntry, error) {
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }() // a failure leaves an idle watch that ctx ends
	var all []jetstream.KeyValueEntry
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, errors.New("the watch ended early")
			case e == nil:
				return all, nil
			}
			all = append(all, e)
		}
	}
}
