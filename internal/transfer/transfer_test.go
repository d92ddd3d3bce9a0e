package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memSink is a Sink over plain memory. Pieces land split in two parts.
type memSink struct {
	mu      sync.Mutex
	placed  map[int][]byte
	refuse  error
	aborted int
	granted chan *memLanding // where set, sees every landing
}

func (s *memSink) setRefusal(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *memSink) piece(chunk int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placed[chunk]
}

type memLanding struct {
	sink   *memSink
	t      Ticket
	buf    []byte
	ctx    context.Context
	revoke context.CancelCauseFunc
}

func (s *memSink) Receive(t Ticket) (Landing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	if old, ok := s.placed[t.Chunk]; ok {
		if sum(old) != t.Digest {
			return nil, recovery.Errorf(recovery.DigestMismatch, "placed with another digest")
		}
		return nil, nil
	}
	l := &memLanding{sink: s, t: t, buf: make([]byte, t.Bytes)}
	l.ctx, l.revoke = context.WithCancelCause(context.Background())
	if s.granted != nil {
		s.granted <- l
	}
	return l, nil
}

func (l *memLanding) Parts() [][]byte {
	return [][]byte{l.buf[:len(l.buf)/3], l.buf[len(l.buf)/3:]}
}
func (l *memLanding) Context() context.Context { return l.ctx }
func (l *memLanding) Abort() {
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.aborted++
}
func (l *memLanding) Commit(got [16]byte) error {
	if got != sum(l.buf) {
		panic("transfer hashed other bytes than it wrote")
	}
	if got != l.t.Digest {
		return recovery.Errorf(recovery.DigestMismatch, "chunk %d arrived damaged", l.t.Chunk)
	}
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	if l.sink.placed == nil {
		l.sink.placed = map[int][]byte{}
	}
	l.sink.placed[l.t.Chunk] = l.buf
	return nil
}

func sum(b []byte) [16]byte { return xxh3.Hash128(b).Bytes() }

// piece returns n reproducible bytes, split, and their ticket.
func piece(chunk, n int) (Ticket, [][]byte, []byte) {
	r := rand.New(rand.NewPCG(uint64(chunk), uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	t := Ticket{Job: "job-1", Chunk: chunk, Attempt: 3, Epoch: 7, Rank: 1, Generation: 2, Bytes: int64(n), Digest: sum(b)}
	return t, [][]byte{b[:n/2], b[n/2:]}, b
}

func serve(t *testing.T, sink Sink) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", sink, Security{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func pool(t *testing.T) *Pool {
	p := &Pool{}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestSendPlaces(t *testing.T) {
	for name, mk := range map[string]func(*testing.T, Sink) (Sender, string){
		"memory": func(t *testing.T, s Sink) (Sender, string) { return pool(t), serve(t, s).Addr() },
		"tcp": func(t *testing.T, s Sink) (Sender, string) {
			p := pool(t)
			p.StreamOnly = true
			return p, serve(t, s).Addr()
		},
		"tls": func(t *testing.T, s Sink) (Sender, string) {
			own, cert := identity(t)
			o := Security{TLS: trusting(own, cert)}
			srv, err := Listen("127.0.0.1:0", s, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { srv.Close() })
			p := pool(t)
			p.Security = o
			return p, srv.Addr()
		},
		"local": func(t *testing.T, s Sink) (Sender, string) {
			return Local{"b": s}, "b"
		},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &memSink{}
			sender, addr := mk(t, sink)
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					tk, parts, _ := piece(i, i*i*1000)
					if err := sender.Send(t.Context(), addr, tk, parts); err != nil {
						t.Errorf("piece %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			for i := range 40 {
				if _, _, want := piece(i, i*i*1000); !bytes.Equal(sink.piece(i), want) {
					t.Errorf("piece %d differs", i)
				}
			}
		})
	}
}

// A refusal comes with its class and text, and the stream goes on: the next
// piece must not wait for a new connection.
func TestRefusedPieceLeavesStreamUsable(t *testing.T) {
	sink := &memSink{}
	srv, p := serve(t, sink), pool(t)
	tk, parts, _ := piece(1, 1<<20)
	sink.setRefusal(recovery.Errorf(recovery.Stale, "generation 2 is gone"))
	err := p.Send(t.Context(), srv.Addr(), tk, parts)
	if recovery.ClassOf(err) != recovery.Stale || !bytes.Contains([]byte(err.Error()), []byte("generation 2 is gone")) {
		t.Fatalf("refusal arrived as %v", err)
	}
	first := p.peers[srv.Addr()].streams[0]
	sink.setRefusal(nil)
	for range 2 { // the second delivery is discarded and counts as placed
		if err := p.Send(t.Context(), srv.Addr(), tk, parts); err != nil {
			t.Fatal(err)
		}
	}
	tk.Digest[0]++
	if err := p.Send(t.Context(), srv.Addr(), tk, parts); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("another digest for a placed piece: %v", err)
	}
	tk.Chunk = 2
	if err := p.Send(t.Context(), srv.Addr(), tk, parts); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("damaged piece: %v", err)
	}
	if p.peers[srv.Addr()].streams[0] != first {
		t.Error("a refusal cost the stream")
	}
}

func TestRevokedTicketBreaksStream(t *testing.T) {
	sink := &memSink{granted: make(chan *memLanding, 2)}
	srv := serve(t, sink)
	// A sender that stops half-way: only the revocation can end the receive.
	c, err := net.Dial("tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := greet(c); err != nil {
		t.Fatal(err)
	}
	if _, err := showProbe(c, newProbe(true)); err != nil {
		t.Fatal(err)
	}
	tk, _, body := piece(1, 1<<20)
	h, _ := appendTicket(nil, tk)
	if _, err := c.Write(append(h, body[:len(body)/2]...)); err != nil {
		t.Fatal(err)
	}
	(<-sink.granted).revoke(errors.New("freed"))
	if _, err := readResult(c); err == nil {
		t.Error("the stream goes on after its ticket was revoked")
	}
	srv.Close() // waits for the receiver
	if sink.aborted != 1 || len(sink.placed) != 0 {
		t.Errorf("%d aborted, %d placed; want 1 and 0", sink.aborted, len(sink.placed))
	}
}

func TestReceiverGoneAndBack(t *testing.T) {
	sink := &memSink{}
	srv, p := serve(t, sink), pool(t)
	tk, parts, _ := piece(1, 1000)
	if err := p.Send(t.Context(), srv.Addr(), tk, parts); err != nil {
		t.Fatal(err)
	}
	addr := srv.Addr()
	srv.Close()
	for c := recovery.Reset; c != recovery.WorkerLost; { // reset while the old stream dies
		c = recovery.ClassOf(p.Send(t.Context(), addr, tk, parts))
		if c != recovery.Reset && c != recovery.WorkerLost {
			t.Fatalf("class %q for a receiver that is gone", c)
		}
	}
	srv, err := Listen(addr, sink, Security{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	if err := p.Send(t.Context(), addr, tk, parts); err != nil {
		t.Errorf("after the receiver came back: %v", err)
	}
}

func TestCancelEndsSend(t *testing.T) {
	// A peer that greets and then reads nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err == nil {
			greet(c)
			answerProbe(c)
			<-t.Context().Done()
			c.Close()
		}
	}()
	t.Cleanup(func() { <-done })
	p := pool(t)
	for _, n := range []int{100, 64 << 20} { // one waits for its result, one is still writing
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		tk, _, _ := piece(1, 10)
		tk.Bytes = int64(n)
		err := p.Send(ctx, l.Addr().String(), tk, [][]byte{make([]byte, n)})
		if recovery.ClassOf(err) != recovery.Timeout { // also where it ends while the stream is being opened
			t.Errorf("%d bytes: %v", n, err)
		}
		cancel()
	}
}

func TestListenRefusesOpenNetwork(t *testing.T) {
	if _, err := Listen("0.0.0.0:0", &memSink{}, Security{}); recovery.ClassOf(err) != recovery.NotAllowed {
		t.Errorf("0.0.0.0: %v", err)
	}
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	for addr, warned := range map[string]bool{"127.0.0.1:0": false, "0.0.0.0:0": true} {
		log.Reset()
		s, err := Listen(addr, &memSink{}, Security{Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "INSECURE: pieces"); got != warned {
			t.Errorf("%s: logged %q", addr, log.String())
		}
	}
}

func TestSenderChecksTicket(t *testing.T) {
	srv, p := serve(t, &memSink{}), pool(t)
	tk, parts, _ := piece(1, 10)
	tk.Bytes++
	if err := p.Send(t.Context(), srv.Addr(), tk, parts); recovery.ClassOf(err) != recovery.Internal {
		t.Errorf("payload shorter than its ticket: %v", err)
	}
	tk.Bytes = MaxPiece + 1
	if err := p.Send(t.Context(), srv.Addr(), tk, [][]byte{parts[0]}); err == nil {
		t.Error("oversized piece accepted")
	}
	if err := (Local{}).Send(t.Context(), "x", tk, parts); recovery.ClassOf(err) != recovery.WorkerLost {
		t.Errorf("unknown local node: %v", err)
	}
}

// wire is a net.Conn that plays recorded bytes and swallows what is written.
type wire struct {
	net.Conn
	io.Reader
}

func (w wire) Read(p []byte) (int, error)       { return w.Reader.Read(p) }
func (w wire) Write(p []byte) (int, error)      { return len(p), nil }
func (w wire) SetDeadline(time.Time) error      { return nil }
func (w wire) Close() error                     { return nil }
func (w wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w wire) SetReadDeadline(time.Time) error  { return nil }
func (w wire) SetWriteDeadline(time.Time) error { return nil }

// limitSink grants small pieces only: a sink knows the size of each piece.
type limitSink struct{ memSink }

func (s *limitSink) Receive(t Ticket) (Landing, error) {
	if t.Bytes > 1<<10 {
		return nil, recovery.Errorf(recovery.Stale, "no such piece")
	}
	return s.memSink.Receive(t)
}

// Whatever a peer sends, the server neither panics nor allocates by its claims.
func FuzzServe(f *testing.F) {
	tk, _, body := piece(1, 100)
	nothing := make([]byte, probeBytes)
	h, _ := appendTicket(append([]byte(hello), nothing...), tk)
	f.Add(append(h, body...))
	f.Add([]byte(hello))
	f.Add(append([]byte(hello), bytes.Repeat([]byte{0xff}, 400)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{sink: &limitSink{}}
		s.serve(wire{Reader: bytes.NewReader(b)})
	})
}

func FuzzReadResult(f *testing.F) {
	f.Add(appendResult(nil, nil))
	f.Add(appendResult(nil, recovery.Errorf(recovery.Stale, "old")))
	f.Add([]byte{1, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		refusal, err := readResult(bytes.NewReader(b))
		if err == nil && refusal != nil && recovery.ClassOf(refusal) == "" {
			t.Error("refusal without a class")
		}
	})
}
