package transfer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// proxy passes streams on to a server, and can break them.
type proxy struct {
	net.Listener
	to     string
	budget atomic.Int64 // bytes towards the server until a stream is cut; negative: never
	cuts   atomic.Int64
	passed atomic.Int64 // bytes towards the server
	conns  atomic.Int64
	wg     sync.WaitGroup
}

func newProxy(t *testing.T, to string, budget int64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	p.budget.Store(budget)
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Add(1)
			p.wg.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.wg.Wait() })
	return p
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer s.Close()
	var back sync.WaitGroup
	back.Go(func() { io.Copy(c, s); c.Close() })
	defer back.Wait()
	defer s.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if left := p.budget.Load(); left >= 0 && p.budget.Add(-int64(n)) < 0 {
			p.budget.Store(-1)
			p.cuts.Add(1)
			s.Write(buf[:n/2]) // the last bytes that come through
			return
		}
		p.passed.Add(int64(n))
		if _, err := s.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A stream that breaks costs the pieces that were on it: they are sent again,
// those that are there are not, and no Send fails.
func TestBrokenStreamResendsWhatIsUnfinished(t *testing.T) {
	const n, pieces = 1 << 20, 16
	sink := &memSink{}
	srv := serve(t, sink)
	x := newProxy(t, srv.Addr(), 5*n+n/2)
	p := pool(t)
	p.StreamOnly = true
	var wg sync.WaitGroup
	for i := range pieces {
		wg.Go(func() {
			tk, parts, _ := piece(i, n)
			if err := p.Send(t.Context(), x.Addr().String(), tk, parts); err != nil {
				t.Errorf("piece %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if x.cuts.Load() != 1 {
		t.Fatalf("%d streams were cut", x.cuts.Load())
	}
	for i := range pieces {
		if _, _, want := piece(i, n); string(sink.piece(i)) != string(want) {
			t.Errorf("piece %d differs", i)
		}
	}
	if again := x.passed.Load() - pieces*n; again > maxPending*n {
		t.Errorf("%d bytes were sent again, at most %d were on the stream that broke", again, maxPending*n)
	}
}

// A peer that breaks every stream is given up.
func TestBreakingPeerIsGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			greet(c)
			answerProbe(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	tk, parts, _ := piece(1, 1<<20)
	if err := pool(t).Send(t.Context(), l.Addr().String(), tk, parts); recovery.ClassOf(err) != recovery.Reset {
		t.Error(err)
	}
	if accepted.Load() != 1+resends {
		t.Errorf("%d streams were opened, want %d", accepted.Load(), 1+resends)
	}
}

// Many pieces at once share a few streams.
func TestStreamsAreBounded(t *testing.T) {
	sink := &memSink{granted: make(chan *memLanding, 100)}
	srv := serve(t, sink)
	x := newProxy(t, srv.Addr(), -1)
	p := pool(t)
	p.StreamOnly = true
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			tk, parts, _ := piece(i, 100_000)
			if err := p.Send(t.Context(), x.Addr().String(), tk, parts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := x.conns.Load(); n < 2 || n > maxStreams {
		t.Errorf("%d streams, want 2 to %d", n, maxStreams)
	}
}

// turns acquires every stream of a peer, so that others wait.
func turns(t *testing.T, p *peer) (held []*stream) {
	t.Helper()
	for range maxStreams * maxPending {
		s, err := p.acquire(t.Context(), "first")
		if err != nil {
			t.Fatal(err)
		}
		if s == nil {
			s = &stream{conn: nowhere{}}
			p.dialed(s)
		}
		p.written(s)
		held = append(held, s)
	}
	return held
}

type nowhere struct{ net.Conn }

func (nowhere) Close() error { return nil }

// Jobs that wait for the same address take turns, however many pieces each has.
func TestJobsTakeTurns(t *testing.T) {
	p := &peer{waiting: map[string][]*waiter{}}
	held := turns(t, p)
	order := make(chan string, 100)
	var wg sync.WaitGroup
	enqueue := func(job string, n int) {
		for i := range n {
			wg.Go(func() {
				s, err := p.acquire(t.Context(), job)
				if err != nil {
					t.Error(err)
					return
				}
				order <- job
				p.written(s)
				p.release(s)
			})
			for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				p.mu.Lock()
				waits := len(p.waiting[job])
				p.mu.Unlock()
				if waits == i+1 {
					break
				}
				if time.Now().After(end) {
					t.Fatal("nobody waits")
				}
			}
		}
	}
	enqueue("large", 20)
	enqueue("small", 3)
	p.release(held[0]) // one stream, so that one at a time goes on
	wg.Wait()
	close(order)
	var got []string
	for job := range order {
		got = append(got, job)
	}
	last := 0
	for i, job := range got {
		if job == "small" {
			last = i
		}
	}
	if last > 7 {
		t.Errorf("the small job waited for the large one: %v", got)
	}
}

// Who stops waiting leaves no turn behind, and a closed pool lets all go.
func TestWaitersLeave(t *testing.T) {
	p := &peer{waiting: map[string][]*waiter{}}
	held := turns(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := p.acquire(ctx, "gone")
		gone <- err
	}()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.release(held[0])
	s, err := p.acquire(t.Context(), "next")
	if err != nil || s != held[0] {
		t.Errorf("the free stream is not given on: %v, %v", s, err)
	}
	go func() {
		_, err := p.acquire(t.Context(), "closed")
		gone <- err
	}()
	for waits := false; !waits; {
		p.mu.Lock()
		waits = len(p.jobs) > 0
		p.mu.Unlock()
	}
	p.close()
	if err := <-gone; recovery.ClassOf(err) != recovery.Cancelled {
		t.Error(err)
	}
}

// A limited pool sends what its rate allows, to all addresses together.
func TestRate(t *testing.T) {
	const perSecond, n = 8 << 20, 1 << 20
	a, b := serve(t, &memSink{}), serve(t, &memSink{})
	p := pool(t)
	p.Rate = perSecond
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 5 {
		tk, parts, _ := piece(i, n)
		for _, srv := range []*Server{a, b} {
			wg.Go(func() {
				if err := p.Send(t.Context(), srv.Addr(), tk, parts); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	// The first burst is free.
	if took, least := time.Since(began), time.Second*(10*n-rateBurst)/perSecond; took < least {
		t.Errorf("10 MiB took %s at 8 MiB/s, want %s", took, least)
	}
}
