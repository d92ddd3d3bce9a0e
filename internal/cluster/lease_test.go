package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

func worker(name string, incarnation uint64, free int64) messages.Worker {
	return messages.Worker{Name: name, Incarnation: incarnation, Devices: []messages.Device{{ID: "cpu", Free: free}}}
}

// die stops the renewals and leaves the lease to end by itself, as kill -9
// does.
func (m *Member) die() {
	m.cancel(errors.New("killed"))
	<-m.done
}

func expect(t *testing.T, events <-chan MemberEvent, change Change, name string, incarnation uint64) messages.Worker {
	t.Helper()
	e := receive(t, events)
	if e.Change != change || e.Worker.Name != name || e.Worker.Incarnation != incarnation {
		t.Fatalf("got %s %s/%d, want %s %s/%d", e.Change, e.Worker.Name, e.Worker.Incarnation, change, name, incarnation)
	}
	return e.Worker
}

func TestMembers(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, short)
	ctx, stop := context.WithCancel(t.Context())
	events, err := c.WatchMembers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a, err := open(t, s, short).Join(t.Context(), worker("a", 1, 100))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Joined, "a", 1)
	b, err := open(t, s, short).Join(t.Context(), worker("b", 1, 100))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Joined, "b", 1)

	if err := a.Update(worker("a", 1, 60)); err != nil {
		t.Fatal(err)
	}
	if w := expect(t, events, Changed, "a", 1); w.Devices[0].Free != 60 {
		t.Errorf("free room %d, want 60", w.Devices[0].Free)
	}

	// A second watch hears who is there; the lease has been renewed past its TTL.
	time.Sleep(2 * short.LeaseTTL)
	late, err := c.WatchMembers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 2 {
		e := receive(t, late)
		seen[e.Worker.Name] = e.Change == Joined
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("a late watch saw %v", seen)
	}

	renewed := time.Now()
	if err := a.Update(worker("a", 1, 50)); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Changed, "a", 1)
	a.die()
	expect(t, events, Left, "a", 1)
	if took := time.Since(renewed); took < short.LeaseTTL || took > 2*short.LeaseTTL {
		t.Errorf("the lease ended after %v, its TTL is %v", took, short.LeaseTTL)
	}
	if err := b.Leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Left, "b", 1)
	if all, err := c.Workers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("workers %v, %v", all, err)
	}
	stop()
	for range events { // closed when the context ends
	}
}

func TestRestartedWorker(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, short)
	events, err := c.WatchMembers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old, err := open(t, s, short).Join(t.Context(), worker("w", 1, 100))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Joined, "w", 1)
	young, err := open(t, s, short).Join(t.Context(), worker("w", 2, 100))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Left, "w", 1)
	expect(t, events, Joined, "w", 2)

	receive(t, doneOf(old.Context()))
	wantClass(t, context.Cause(old.Context()), recovery.Stale)
	if err := old.Leave(); err != nil {
		t.Error(err)
	}
	_, err = open(t, s, short).Join(t.Context(), worker("w", 1, 100))
	wantClass(t, err, recovery.Stale)
	if all, err := c.Workers(t.Context()); err != nil || len(all) != 1 || all[0].Incarnation != 2 {
		t.Errorf("workers %v, %v", all, err)
	}
	if err := young.Leave(); err != nil {
		t.Error(err)
	}
	_, err = c.Join(t.Context(), worker("no.dots", 1, 0))
	wantClass(t, err, recovery.Usage)
}

// doneOf makes a channel that receive can read of a context's end.
func doneOf(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { ch <- struct{}{} })
	return ch
}

// TestMemberOutlivesItsServer: NATS goes away with all it knew and comes back;
// the worker is in the cluster again, and a watch notices.
func TestMemberOutlivesItsServer(t *testing.T) {
	s, err := StartServer(ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	address := s.URL()
	join := func() (*Cluster, *Member) {
		nc, err := Connect(address, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		c, err := Open(t.Context(), nc, short)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Join(t.Context(), worker("w", 7, 1))
		if err != nil {
			t.Fatal(err)
		}
		return c, m
	}
	_, m := join()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = startServer(t, ServerOptions{Listen: address[len("nats://"):]})
	c := open(t, s, short)
	events, err := c.WatchMembers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Joined, "w", 7)
	if err := m.Leave(); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Left, "w", 7)
}

// TestLostAnswer: a renewal that was written but whose answer was lost must not
// look like somebody else's, nor keep the lease from being given back.
func TestLostAnswer(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, short)
	l := &lease{c: c, kv: c.members, key: "w", mine: func(v []byte) bool { return string(v) == "mine" }}
	if err := l.take(t.Context(), []byte("mine")); err != nil {
		t.Fatal(err)
	}
	before := l.revision
	if err := l.write(t.Context(), []byte("mine")); err != nil {
		t.Fatal(err)
	}
	l.revision = before
	if err := l.write(t.Context(), []byte("mine")); err != nil {
		t.Fatal(err)
	}
	l.revision = before
	if err := l.release(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantClass(t, l.write(t.Context(), []byte("mine")), recovery.Stale)
}

// unsure is a bucket whose first Create says that the key exists: the client
// does where its time runs out in the middle.
type unsure struct {
	jetstream.KeyValue
	said bool
}

func (u *unsure) Create(ctx context.Context, key string, value []byte, o ...jetstream.KVCreateOpt) (uint64, error) {
	if !u.said {
		u.said = true
		return 0, jetstream.ErrKeyExists
	}
	return u.KeyValue.Create(ctx, key, value, o...)
}

// TestRejoin: a worker whose lease ended while it was cut off takes it again,
// also where the first answer looks like somebody else's lease.
func TestRejoin(t *testing.T) {
	c := open(t, startServer(t, ServerOptions{}), short)
	m, err := c.Join(t.Context(), worker("w", 7, 1))
	if err != nil {
		t.Fatal(err)
	}
	m.die()
	if err := c.members.Purge(t.Context(), "w"); err != nil {
		t.Fatal(err)
	}
	u := &unsure{KeyValue: c.members}
	m.lease.kv = u
	if err := m.renew(t.Context()); err != nil || !u.said {
		t.Fatalf("renew: %v, asked: %t", err, u.said)
	}
	if all, err := c.Workers(t.Context()); err != nil || len(all) != 1 || all[0].Incarnation != 7 {
		t.Errorf("workers %v, %v", all, err)
	}
}

// TestDoubtedMembers: after NATS was silent, members have the time of a lease to
// take theirs again before they count as gone.
func TestDoubtedMembers(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, short)
	term, err := c.Lead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer term.Resign()
	events, err := c.WatchMembers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"back", "gone"} {
		m, err := open(t, s, short).Join(t.Context(), worker(name, 1, 1))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, events, Joined, name, 1)
		if name == "gone" {
			m.die()
		} else {
			defer m.Leave()
		}
	}
	silence := time.Now()
	c.contact.heard(silence.Add(-time.Hour), time.Hour*2)
	c.contact.heard(silence, time.Second)
	for _, name := range []string{"back", "gone"} {
		if err := c.members.Purge(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, events, Left, "gone", 1)
	if took := time.Since(silence); took < short.LeaseTTL {
		t.Errorf("believed after %v, a lease is %v", took, short.LeaseTTL)
	}
	if all, err := c.Workers(t.Context()); err != nil || len(all) != 1 || all[0].Name != "back" {
		t.Errorf("workers %v, %v", all, err)
	}
	select {
	case e := <-events:
		t.Errorf("%s %s: it was never gone", e.Change, e.Worker.Name)
	case <-time.After(short.LeaseTTL / 2):
	}
}
