package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

func (t *Term) die() {
	t.cancel(errors.New("killed"))
	<-t.done
}

func TestLeaderTakeover(t *testing.T) {
	s := startServer(t, ServerOptions{})
	first, err := open(t, s, short).Lead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	terms := make(chan *Term, 1)
	standby := open(t, s, short)
	go func() {
		term, err := standby.Lead(t.Context())
		if err != nil {
			t.Error(err)
		}
		terms <- term
	}()
	select {
	case <-terms:
		t.Fatal("two lead")
	case <-time.After(2 * short.LeaseTTL): // renewed all the while
	}
	died := time.Now()
	first.die()
	second := receive(t, terms)
	if took := time.Since(died); took > 2*short.LeaseTTL {
		t.Errorf("took over after %v", took)
	}
	if second.Epoch() <= first.Epoch() {
		t.Errorf("epoch %d follows %d", second.Epoch(), first.Epoch())
	}
	// Somebody else's key: the term is lost.
	if _, err := standby.leader.Put(t.Context(), leaderKey, []byte("another")); err != nil {
		t.Fatal(err)
	}
	receive(t, doneOf(second.Context()))
	wantClass(t, context.Cause(second.Context()), recovery.Stale)
	if err := second.Resign(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := standby.Lead(ctx); err == nil {
		t.Error("leads although another holds the key")
	}
}

// TestLeaderOfALostStore: a standby leaves the lease of a store that was lost to
// whoever held it, also where it has not yet read who that is.
func TestLeaderOfALostStore(t *testing.T) {
	s := startServer(t, ServerOptions{})
	standby := open(t, s, short)
	if _, err := standby.leader.PutString(t.Context(), leaderKey, "another"); err != nil {
		t.Fatal(err)
	}
	terms := make(chan *Term, 1)
	go func() {
		term, err := standby.Lead(t.Context())
		if err != nil {
			t.Error(err)
		}
		terms <- term
	}()
	for waits := false; !waits; { // for the lease to end
		stream, err := standby.js.Stream(t.Context(), "KV_"+standby.leader.Bucket())
		if err != nil {
			t.Fatal(err)
		}
		waits = stream.CachedInfo().State.Consumers > 0
		select {
		case <-terms:
			t.Fatal("it leads beside another")
		case <-time.After(5 * time.Millisecond):
		}
	}
	lost := time.Now()
	if err := standby.leader.Purge(t.Context(), leaderKey); err != nil {
		t.Fatal(err)
	}
	term := receive(t, terms)
	if took := time.Since(lost); took < 2*short.LeaseTTL {
		t.Errorf("leads after %v", took)
	}
	if err := term.Resign(); err != nil {
		t.Error(err)
	}
}

// TestResignation: a lease that is given back is not waited for, however long it
// would have been.
func TestResignation(t *testing.T) {
	long := Options{LeaseTTL: time.Minute}
	s := startServer(t, ServerOptions{})
	first, err := open(t, s, long).Lead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	terms := make(chan *Term, 1)
	standby := open(t, s, long)
	go func() {
		term, err := standby.Lead(t.Context())
		if err != nil {
			t.Error(err)
		}
		terms <- term
	}()
	if err := first.Resign(); err != nil {
		t.Fatal(err)
	}
	if second := receive(t, terms); second.Epoch() <= first.Epoch() {
		t.Errorf("epoch %d follows %d", second.Epoch(), first.Epoch())
	} else if err := second.Resign(); err != nil {
		t.Error(err)
	}
}

// TestTermGoesOn: a lease that ended while NATS was away is taken again, under
// the same epoch, unless another has led meanwhile.
func TestTermGoesOn(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, short)
	term, err := c.Lead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost := doneOf(term.Context())
	for range 3 {
		if err := c.leader.Purge(t.Context(), leaderKey); err != nil {
			t.Fatal(err)
		}
		select {
		case <-lost:
			t.Fatalf("the term ended: %v", context.Cause(term.Context()))
		case <-time.After(short.LeaseTTL):
		}
		if e, err := c.leader.Get(t.Context(), leaderKey); err != nil || string(e.Value()) != term.holder {
			t.Fatalf("the lease is not taken again: %v", err)
		}
	}
	if _, err := c.leader.PutString(t.Context(), lastKey, "another"); err != nil {
		t.Fatal(err)
	}
	if err := c.leader.Purge(t.Context(), leaderKey); err != nil {
		t.Fatal(err)
	}
	receive(t, lost)
	wantClass(t, context.Cause(term.Context()), recovery.Stale)
	if term.Sure(t.Context()) {
		t.Error("it is sure to lead")
	}
}
