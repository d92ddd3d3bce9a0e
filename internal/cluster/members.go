package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
)

// Change is what happened to a member.
type Change string

// The changes. A worker that was restarted under its name is Left with the
// old incarnation, then Joined with the new one.
const (
	Joined  Change = "joined"
	Changed Change = "changed" // its lease says something new
	Left    Change = "left"    // its lease was given back or has ended
)

// MemberEvent is a change of the cluster's members. Of a worker that left it
// carries what was known last.
type MemberEvent struct {
	Change Change
	Worker messages.Worker
}

// Workers returns the members of the cluster, by name.
func (c *Cluster) Workers(ctx context.Context) ([]messages.Worker, error) {
	all, err := list(ctx, c.members)
	if err != nil {
		return nil, classify("list workers", err)
	}
	workers := make([]messages.Worker, 0, len(all))
	for _, e := range all {
		w, err := decodeWorker(e)
		if err != nil {
			return nil, err
		}
		workers = append(workers, w)
	}
	slices.SortFunc(workers, func(a, b messages.Worker) int { return strings.Compare(a.Name, b.Name) })
	return workers, nil
}

func decodeWorker(e jetstream.KeyValueEntry) (messages.Worker, error) {
	var w messages.Worker
	if err := json.Unmarshal(e.Value(), &w); err != nil {
		return w, classify("read lease of "+e.Key(), err)
	}
	return w, nil
}

// memberWatch turns what the bucket says into changes.
type memberWatch struct {
	c     *Cluster
	out   chan<- MemberEvent
	known map[string]known
	// doubted are members whose lease ended while NATS was away: until when
	// they have time to take it again.
	doubted map[string]time.Time
}

type known struct {
	worker messages.Worker
	value  []byte
}

// WatchMembers sends the members there are as Joined, then every change, until
// ctx is done; then it closes the channel. It holds over lost connections.
func (c *Cluster) WatchMembers(ctx context.Context) (<-chan MemberEvent, error) {
	w, err := c.members.WatchAll(ctx)
	if err != nil {
		return nil, classify("watch members", err)
	}
	out := make(chan MemberEvent, 16)
	back := c.nc.StatusChanged(nats.CONNECTED)
	go func() {
		defer close(out)
		defer c.nc.RemoveStatusListener(back)
		m := memberWatch{c: c, out: out, known: map[string]known{}, doubted: map[string]time.Time{}}
		for again := false; w != nil; again = true {
			m.follow(ctx, w, back, again)
			_ = w.Stop() // it is replaced, or the context has ended it
			w = c.watchAgain(ctx)
		}
	}()
	return out, nil
}

// watchAgain starts another watch, as often as it takes. It returns nil when
// ctx is done.
func (c *Cluster) watchAgain(ctx context.Context) jetstream.KeyWatcher {
	for ctx.Err() == nil {
		w, err := c.members.WatchAll(ctx)
		if err == nil {
			return w
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.renew):
		}
	}
	return nil
}

// follow passes on what one watch says, until ctx is done or the connection
// was lost and is back: a server that lost its store would never say that a
// lease ended, so the watch must then begin anew. Leases that have ended when it
// does are doubted for a while: while NATS was away nobody could renew one.
func (m *memberWatch) follow(ctx context.Context, w jetstream.KeyWatcher, back <-chan nats.Status, again bool) {
	seen := map[string]bool{}
	tick := time.NewTicker(m.c.renew / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-back:
			return
		case now := <-tick.C:
			for name, until := range m.doubted {
				if now.After(until) {
					m.leave(ctx, name)
				}
			}
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return
			case e == nil: // all that was there has been said
				for name := range m.known {
					if !seen[name] {
						m.ended(ctx, name, again)
					}
				}
				seen = nil
			case e.Operation() != jetstream.KeyValuePut:
				m.ended(ctx, e.Key(), again && seen != nil)
			default:
				if seen != nil {
					seen[e.Key()] = true
				}
				m.put(ctx, e)
			}
		}
	}
}

// ended takes the end of a lease as a member's, at once or when it has had the
// time to take it again.
func (m *memberWatch) ended(ctx context.Context, name string, doubt bool) {
	now := time.Now()
	switch {
	case !doubt && !m.c.contact.doubtful(now, 2*m.c.renew, m.c.ttl):
		m.leave(ctx, name)
	case m.doubted[name].IsZero():
		m.doubted[name] = now.Add(m.c.ttl)
	}
}

func (m *memberWatch) put(ctx context.Context, e jetstream.KeyValueEntry) {
	old, there := m.known[e.Key()]
	delete(m.doubted, e.Key())
	if there && bytes.Equal(old.value, e.Value()) {
		return // a mere renewal
	}
	w, err := decodeWorker(e)
	if err != nil {
		slog.Warn("a member's lease cannot be read", "error", err)
		return
	}
	change := Changed
	if there && old.worker.Incarnation != w.Incarnation {
		m.leave(ctx, e.Key())
		there = false
	}
	if !there {
		change = Joined
	}
	m.known[e.Key()] = known{w, e.Value()}
	m.send(ctx, MemberEvent{change, w})
}

func (m *memberWatch) leave(ctx context.Context, name string) {
	old, there := m.known[name]
	if !there {
		return
	}
	delete(m.known, name)
	delete(m.doubted, name)
	m.send(ctx, MemberEvent{Left, old.worker})
}

func (m *memberWatch) send(ctx context.Context, e MemberEvent) {
	select {
	case m.out <- e:
	case <-ctx.Done():
	}
}
