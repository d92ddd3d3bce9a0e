package telemetry

import (
	"context"
	"encoding/json"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// natsServer is a real server with the streams that the cluster makes.
func natsServer(t *testing.T) (*server.Server, *nats.Conn, jetstream.JetStream) {
	t.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []jetstream.StreamConfig{
		{Name: "E", Subjects: []string{"gantry.v1.event.>"}},
		{Name: "P", Subjects: []string{"gantry.v1.progress.>"}, MaxMsgsPerSubject: 1},
	} {
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	return ns, nc, js
}

func publisher(t *testing.T, nc *nats.Conn) *Publisher {
	t.Helper()
	p, err := NewPublisher(nc, "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func messagesIn(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestPublisher(t *testing.T) {
	_, nc, js := natsServer(t)
	wire := make(chan *nats.Msg, 4096)
	sub, err := nc.ChanSubscribe("gantry.v1.>", wire)
	if err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	const n = 500
	begin := time.Now()
	for i := range n {
		p.Event(ctx, progress.Event{Job: "j", Kind: progress.ChunkRetry, Chunk: i, Rank: -1})
		p.Update(ctx, progress.Update{Job: "j", Worker: "host.example", Stage: progress.LoadingWeights, BytesDone: int64(i)})
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	if got := messagesIn(t, js, "E"); got != n {
		t.Errorf("%d events are stored, want %d", got, n)
	}
	if got := messagesIn(t, js, "P"); got != 1 {
		t.Errorf("%d reports are stored, want the last", got)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	close(wire)
	var reports []progress.Update
	next := 0
	for m := range wire {
		if len(m.Header["traceparent"]) != 1 {
			t.Fatalf("%s has the headers %v", m.Subject, m.Header)
		}
		if m.Subject == "gantry.v1.event.j.chunk_retry" {
			var e progress.Event
			if err := json.Unmarshal(m.Data, &e); err != nil || e.Chunk != next || e.Time.IsZero() {
				t.Fatalf("event %d: %s, %v", next, m.Data, err)
			}
			next++
			continue
		}
		var u progress.Update
		if err := json.Unmarshal(m.Data, &u); err != nil || u.Time.IsZero() {
			t.Fatal(err)
		}
		reports = append(reports, u)
	}
	if limit := int(took/interval) + 2; len(reports) == 0 || len(reports) > limit {
		t.Errorf("%d reports in %v, want at most %d", len(reports), took, limit)
	}
	if last := reports[len(reports)-1]; last.BytesDone != n-1 || last.Seq != uint64(len(reports)) {
		t.Errorf("the last report is %+v", last)
	}
	if p.Dropped() != 0 {
		t.Errorf("%d dropped", p.Dropped())
	}

	p.Event(ctx, progress.Event{Job: "j", Kind: progress.Failed})
	p.Update(ctx, progress.Update{Job: "j"})
	if p.Dropped() != 2 {
		t.Errorf("after Close %d were counted as dropped, want 2", p.Dropped())
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestPublisherWithoutNATS: a server that is gone blocks nobody, and what is
// lost is counted.
func TestPublisherWithoutNATS(t *testing.T) {
	ns, nc, _ := natsServer(t)
	p := publisher(t, nc)
	ns.Shutdown()
	ns.WaitForShutdown()
	begin := time.Now()
	const n = 3 * maxEvents
	for i := range n {
		p.Event(context.Background(), progress.Event{Job: "j", Kind: progress.ChunkRetry, Chunk: i})
		p.Update(context.Background(), progress.Update{Job: "j", Worker: "w", Stage: progress.LoadingWeights})
	}
	if took := time.Since(begin); took > ackTimeout {
		t.Errorf("%d reports took %v", n, took)
	}
	if p.Dropped() == 0 {
		t.Error("nothing was counted as dropped")
	}
	begin = time.Now()
	if err := p.Close(); err == nil {
		t.Error("Close says that all was sent")
	}
	if took := time.Since(begin); took > flushWindow+3*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// slowServer is a way to a server whose answers are held back by a lock.
type slowServer struct {
	*server.Server
	held sync.RWMutex
}

func (s *slowServer) InProcessConn() (net.Conn, error) {
	c, err := s.Server.InProcessConn()
	return slowConn{c, &s.held}, err
}

type slowConn struct {
	net.Conn
	held *sync.RWMutex
}

func (c slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.held.RLock()
	defer c.held.RUnlock()
	return n, err
}

// TestCloseWaitsForNATS: where NATS is slow to confirm, Close waits with what
// may not be sent before, and drops none of it.
func TestCloseWaitsForNATS(t *testing.T) {
	ns, _, js := natsServer(t)
	slow := &slowServer{Server: ns}
	nc, err := nats.Connect("", nats.InProcessServer(slow))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := publisher(t, nc)
	slow.held.Lock()
	const n = maxUnacked + 50
	for i := range n {
		p.Event(t.Context(), progress.Event{Job: "j", Kind: progress.ChunkRetry, Chunk: i})
	}
	time.AfterFunc(flushWindow/4, slow.held.Unlock)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := messagesIn(t, js, "E"); got != n || p.Dropped() != 0 {
		t.Errorf("%d events are stored, want %d; %d dropped", got, n, p.Dropped())
	}
}

// TestPublisherOutlivesNATS: what is reported while the server is away, or was
// given to it just before and not stored, is there once when it is back.
func TestPublisherOutlivesNATS(t *testing.T) {
	dir := t.TempDir()
	start := func(port int) *server.Server {
		ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		if !ns.ReadyForConnections(10 * time.Second) {
			t.Fatal("the NATS server is not ready")
		}
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		return ns
	}
	ns := start(server.RANDOM_PORT)
	nc, err := nats.Connect(ns.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "E", Subjects: []string{"gantry.v1.event.>"}}); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc)
	defer p.Close()
	const each = 100
	said := 0
	for _, away := range []bool{false, true, false} {
		if away {
			port := ns.Addr().(*net.TCPAddr).Port
			ns.Shutdown()
			ns.WaitForShutdown()
			defer func() {
				if !nc.IsConnected() {
					t.Error("never connected again")
				}
			}()
			for range each {
				said++
				p.Event(t.Context(), progress.Event{Job: "j", Kind: progress.ChunkRetry, Chunk: said})
			}
			ns = start(port)
			continue
		}
		for range each {
			said++
			p.Event(t.Context(), progress.Event{Job: "j", Kind: progress.ChunkRetry, Chunk: said})
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := js.Stream(t.Context(), "E")
		if err == nil && s.CachedInfo().State.Msgs == uint64(said) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d events were reported, the stream says %+v, %v; %d dropped", said, s, err, p.Dropped())
		}
	}
	s, err := js.Stream(t.Context(), "E")
	if err != nil {
		t.Fatal(err)
	}
	stored := map[int]bool{}
	for i := 1; i <= said; i++ {
		m, err := s.GetMsg(t.Context(), uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		var e progress.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Chunk < 1 || e.Chunk > said || stored[e.Chunk] {
			t.Fatalf("message %d is event %d, which was not reported or is there twice", i, e.Chunk)
		}
		stored[e.Chunk] = true
	}
	if p.Dropped() != 0 {
		t.Errorf("%d dropped", p.Dropped())
	}
}

func TestPublisherPrefix(t *testing.T) {
	_, nc, _ := natsServer(t)
	if _, err := NewPublisher(nc, "a b"); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("error %v", err)
	}
}
