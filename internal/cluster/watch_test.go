package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// TestWatchWithoutNATS: a watch says that NATS is away and that it is back,
// goes on then, and has an end where NATS never is.
func TestWatchWithoutNATS(t *testing.T) {
	o := ServerOptions{Listen: "127.0.0.1:0", StateDir: t.TempDir()}
	s, err := StartServer(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Listen = strings.TrimPrefix(s.URL(), "nats://")
	nc, err := Connect(s.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c, err := Open(t.Context(), nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := c.Jobs.Put(t.Context(), someJob("j"), 0)
	if err != nil {
		t.Fatal(err)
	}
	next := func(notices <-chan JobNotice, is func(JobNotice) bool) {
		t.Helper()
		for !is(receive(t, notices)) {
		}
	}
	contact := func(want Contact) func(JobNotice) bool {
		return func(n JobNotice) bool { return n.Contact == want }
	}

	client := NewClient(nc)
	notices, err := client.WatchJob(t.Context(), "j")
	if err != nil {
		t.Fatal(err)
	}
	next(notices, func(n JobNotice) bool { return n.Job != nil })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next(notices, contact(NATSAway))
	s = startServer(t, o)
	next(notices, contact(NATSBack))
	if client.Away() {
		t.Error("NATS is back and said to be away")
	}
	final := someJob("j")
	final.State = messages.StateReady
	if rev, err = c.Jobs.Put(t.Context(), final, rev); err != nil {
		t.Fatal(err)
	}
	next(notices, func(n JobNotice) bool { return n.Job != nil && n.Job.State.Final() })

	if _, err := c.Jobs.Put(t.Context(), someJob("j"), rev); err != nil {
		t.Fatal(err)
	}
	client.awayLimit = 200 * time.Millisecond
	if notices, err = client.WatchJob(t.Context(), "j"); err != nil {
		t.Fatal(err)
	}
	next(notices, func(n JobNotice) bool { return n.Job != nil })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next(notices, contact(NATSAway))
	if !client.Away() {
		t.Error("NATS is away and said to be there")
	}
	var end error
	next(notices, func(n JobNotice) bool { end = n.Err; return end != nil })
	wantClass(t, end, recovery.ClusterLost)
	if !strings.Contains(end.Error(), "job j may still be running") {
		t.Errorf("the end: %v", end)
	}
	if n, more := <-notices; more {
		t.Errorf("after the end: %+v", n)
	}
}
