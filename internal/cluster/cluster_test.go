package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/recovery"
)

func TestMain(m *testing.M) {
	// nats.go 1.55.0 waits for ever for a reconnect where a connection is
	// closed while its first asynchronous publish (PutObject's) is set up.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// startServer runs a server for one test.
func startServer(t *testing.T, o ServerOptions) *Server {
	t.Helper()
	s, err := StartServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// open joins a server's cluster over a connection of its own.
func open(t *testing.T, s *Server, o Options) *Cluster {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c, err := Open(t.Context(), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// short is a cluster whose leases are as short as a machine allows that may be
// busy with something else for a second.
var short = Options{LeaseTTL: 2 * time.Second}

func wantClass(t *testing.T, err error, want recovery.Class) {
	t.Helper()
	if got := recovery.ClassOf(err); got != want {
		t.Fatalf("error %v is of class %q, want %q", err, got, want)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("error has several lines: %q", err)
	}
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("the channel was closed")
		}
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came in 10 s")
	}
	panic("unreachable")
}

func TestServerInProcessOnly(t *testing.T) {
	s := startServer(t, ServerOptions{})
	if s.URL() != "" {
		t.Errorf("a server without Listen has the URL %q", s.URL())
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestServerKeepsItsState(t *testing.T) {
	dir := t.TempDir()
	put := func() (epoch uint64) {
		s, err := StartServer(ServerOptions{StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c, err := Open(t.Context(), nc, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Plans.Put(t.Context(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Plans.Get(t.Context(), digestOf([]byte("{}"))); err != nil {
			t.Fatal(err)
		}
		term, err := c.Lead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := term.Resign(); err != nil {
			t.Fatal(err)
		}
		return term.Epoch()
	}
	if first, second := put(), put(); second <= first {
		t.Errorf("epoch %d after a restart, %d before", second, first)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "nats", "*")); err != nil || len(found) == 0 {
		t.Errorf("nothing in the state directory (%v)", err)
	}
}

// TestEpochGrowsWithoutState: a server that lost its store gives a higher
// epoch all the same, so that workers which remember the old one listen.
func TestEpochGrowsWithoutState(t *testing.T) {
	var last uint64
	for range 2 {
		s := startServer(t, ServerOptions{})
		term, err := open(t, s, Options{}).Lead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if term.Epoch() <= last {
			t.Errorf("epoch %d, before %d", term.Epoch(), last)
		}
		last = term.Epoch()
		if err := term.Resign(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerRefusesOpenPorts(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "nonsense", "127.0.0.1:99999"} {
		_, err := StartServer(ServerOptions{Listen: listen})
		wantClass(t, err, recovery.Usage)
	}
	var log bytes.Buffer
	s := startServer(t, ServerOptions{Listen: "0.0.0.0:0", Insecure: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if s.URL() == "" || !strings.Contains(log.String(), "INSECURE") {
		t.Errorf("URL %q, log %q", s.URL(), log.String())
	}
}

func TestConnect(t *testing.T) {
	s := startServer(t, ServerOptions{Listen: "127.0.0.1:0"})
	nc, err := Connect(s.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := "nats://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Connect(free, "")
	wantClass(t, err, recovery.ClusterLost)
	if !strings.Contains(err.Error(), free) {
		t.Errorf("the error does not say where: %v", err)
	}
}

func TestOpenAtOnce(t *testing.T) {
	s := startServer(t, ServerOptions{})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			nc, err := s.Connect()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			if _, err := Open(t.Context(), nc, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPrefixesAreApart(t *testing.T) {
	s := startServer(t, ServerOptions{})
	a, b := open(t, s, Options{}), open(t, s, Options{Prefix: "team-a.gantry"})
	if _, err := a.Jobs.Put(t.Context(), someJob("j"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := b.Jobs.Get(t.Context(), "j")
	wantClass(t, err, recovery.NotFound)
	for _, bad := range []string{"a..b", "a.*", "a b", ".", "ünder"} {
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), nc, Options{Prefix: bad})
		nc.Close()
		wantClass(t, err, recovery.Usage)
	}
}

func TestClosedConnectionIsClusterLost(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, Options{})
	c.nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := c.Jobs.Get(ctx, "j")
	wantClass(t, err, recovery.ClusterLost)
	_, err = Open(ctx, c.nc, Options{})
	wantClass(t, err, recovery.ClusterLost)
}

func subscribe(t *testing.T, nc *nats.Conn, subject string) <-chan *nats.Msg {
	t.Helper()
	ch := make(chan *nats.Msg, 64)
	if _, err := nc.ChanSubscribe(subject, ch); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return ch
}
