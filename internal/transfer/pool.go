package transfer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/gantry-ml/gantry/recovery"
)

// dialTimeout is how long a worker may take to answer a new stream.
const dialTimeout = 5 * time.Second

// Limits of what a pool has under way.
const (
	// maxStreams is how many streams it opens to one address. Loopback and fast
	// links need more than one: each is served by a thread at either end.
	maxStreams = 4
	// maxPending is how many pieces are under way on one stream: one is written
	// while another's result is awaited.
	maxPending = 2
	// resends is how often a piece is sent again because its stream broke.
	resends = 2
	// rateBurst is how many bytes a limited pool may send at once.
	rateBurst = 1 << 20
)

// Pool is a Sender with a few kept-alive streams to each address. Streams are
// dialed when they are needed, and again after they broke. Jobs that send to
// the same address take turns. The zero value is ready; Close it after the
// last Send.
type Pool struct {
	Security Security // of the streams it dials
	// StreamOnly sends every piece over a stream. Otherwise a worker of the
	// same machine takes it from this process's memory where the system lets it.
	StreamOnly bool
	// Rate is how many bytes a second it sends on average, to all addresses
	// together; 0 is no limit. A piece that has begun is sent at full speed.
	Rate int64

	mu      sync.Mutex
	closed  bool
	peers   map[string]*peer
	limit   *rate.Limiter // nil without Rate
	serial  atomic.Uint64
	readers sync.WaitGroup
}

// Send implements Sender. A piece whose stream breaks is sent again over
// another one; those that had their result are not. A Send whose
// ctx ends may still have placed its piece, or the receiver finds other bytes
// than the ticket's digest promises. It fails with class worker_lost
// where nobody listens, reset where the streams broke, timeout where the
// receiver does not answer, and otherwise with the receiver's class.
func (p *Pool) Send(ctx context.Context, addr string, t Ticket, parts [][]byte) error {
	defer runtime.KeepAlive(parts)
	to, err := p.peer(addr)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		t.Serial = p.serial.Add(1)
		out := p.deliver(ctx, to, t, parts)
		if out.broken == nil || try == resends || ctx.Err() != nil {
			return sendError(ctx, addr, cmp.Or(out.refusal, out.broken))
		}
	}
}

// deliver sends a piece once.
func (p *Pool) deliver(ctx context.Context, to *peer, t Ticket, parts [][]byte) outcome {
	s, err := to.acquire(ctx, t.Job)
	if err != nil {
		return outcome{refusal: err}
	}
	if s == nil {
		s, err = p.dial(ctx, to.addr)
		if to.dialed(s); err != nil {
			return outcome{refusal: err}
		}
	}
	wait, out := p.write(ctx, s, t, parts)
	to.written(s)
	if wait != nil {
		out = s.await(ctx, wait, patience(t.Bytes))
	}
	to.release(s)
	return out
}

// write puts a piece on a stream, when the rate allows, and returns where its
// result comes.
func (p *Pool) write(ctx context.Context, s *stream, t Ticket, parts [][]byte) (<-chan outcome, outcome) {
	for left := t.Bytes; p.limit != nil && left > 0; left -= rateBurst {
		if err := p.limit.WaitN(ctx, int(min(left, rateBurst))); err != nil {
			return nil, outcome{refusal: err}
		}
	}
	return s.write(ctx, t, parts)
}

// Close ends all streams and waits for their readers. Sends that wait for a
// result fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	peers := p.peers
	p.peers = nil
	p.mu.Unlock()
	for _, to := range peers {
		to.close()
	}
	p.readers.Wait()
	return nil
}

// errClosed is what Sends of a closed pool fail with.
func errClosed() error { return recovery.Errorf(recovery.Cancelled, "transfer: pool closed") }

func (p *Pool) peer(addr string) (*peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed()
	}
	to := p.peers[addr]
	if to == nil {
		if p.peers == nil {
			p.peers = map[string]*peer{}
			if p.Rate > 0 {
				p.limit = rate.NewLimiter(rate.Limit(p.Rate), rateBurst)
			}
		}
		to = &peer{addr: addr, waiting: map[string][]*waiter{}}
		p.peers[addr] = to
	}
	return to, nil
}

// dial opens a stream and starts its reader, which the pool waits for. Go
// sets TCP_NODELAY and TCP keep-alive by default.
func (p *Pool) dial(ctx context.Context, addr string) (*stream, error) {
	dial := (&net.Dialer{Timeout: dialTimeout}).DialContext
	if config := p.Security.config(); config != nil {
		dial = (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: config}).DialContext
	}
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	c.SetDeadline(time.Now().Add(dialTimeout))
	s := &stream{conn: c}
	if err = greet(c); err == nil {
		s.readable, err = showProbe(c, newProbe(p.StreamOnly))
	}
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return nil, errClosed()
	}
	p.readers.Add(1)
	go func() {
		defer p.readers.Done()
		s.read()
	}()
	return s, nil
}

// sendError names the peer and gives an error that nobody classified the
// class of what happened to the connection.
func sendError(ctx context.Context, addr string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	class := recovery.ClassOf(err)
	var known *recovery.Error
	if !errors.As(err, &known) {
		var timeout net.Error
		var op *net.OpError
		var certificate *tls.CertificateVerificationError
		switch {
		case errors.As(err, &certificate), errors.As(err, &op) && op.Op == "remote error":
			class = recovery.NotAllowed // a certificate that is not trusted, ours or theirs: no retry mends it
		case errors.Is(err, syscall.ECONNREFUSED):
			class = recovery.WorkerLost
		case errors.As(err, &timeout) && timeout.Timeout():
			class = recovery.Timeout
		case errors.As(err, &op) && op.Op == "dial":
			class = recovery.WorkerLost
		default:
			class = recovery.Reset
		}
	}
	return &recovery.Error{Class: class, Op: "send", File: addr, Err: err}
}
