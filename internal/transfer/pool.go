package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// dialTimeout is how long a worker may take to answer a new stream.
const dialTimeout = 5 * time.Second

// Pool is a Sender with one kept-alive stream to each address. Streams are
// dialed when they are first needed, and again after they broke. The zero
// value is ready; Close it after the last Send.
type Pool struct {
	Security Security // of the streams it dials
	// StreamOnly sends every piece over its stream. Otherwise a worker of the
	// same machine takes it from this process's memory where the system lets it.
	StreamOnly bool

	mu      sync.Mutex
	closed  bool
	streams map[string]*slot
	readers sync.WaitGroup
}

// slot holds the stream to one address. Whoever holds the token may write to
// the stream or replace it.
type slot struct {
	token  chan struct{} // one token
	stream *stream
}

// Send implements Sender. Several pieces may be under way on one stream: the
// next one is written while the last one's result is awaited. A Send whose
// ctx ends may still have placed its piece, or the receiver finds other bytes
// than the ticket's digest promises. It fails with class worker_lost
// where nobody listens, reset where the stream broke, timeout where the
// receiver does not answer, and otherwise with the receiver's class.
func (p *Pool) Send(ctx context.Context, addr string, t Ticket, parts [][]byte) error {
	defer runtime.KeepAlive(parts)
	s, wait, err := p.write(ctx, addr, t, parts)
	if err != nil {
		return sendError(ctx, addr, err)
	}
	timer := time.NewTimer(patience(t.Bytes))
	defer timer.Stop()
	select {
	case err := <-wait:
		return sendError(ctx, addr, err)
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		s.fail(recovery.Errorf(recovery.Timeout, "no answer for a piece of %d bytes", t.Bytes))
		return sendError(ctx, addr, <-wait)
	}
}

// Close ends all streams and waits for their readers. Sends that wait for a
// result fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	slots := p.streams
	p.streams = nil
	p.mu.Unlock()
	for _, s := range slots {
		s.token <- struct{}{} // a dial or write under way ends first
		if s.stream != nil {
			s.stream.fail(recovery.Errorf(recovery.Cancelled, "transfer: pool closed"))
		}
		<-s.token
	}
	p.readers.Wait()
	return nil
}

// write puts a piece on the stream to addr and returns where its result comes.
func (p *Pool) write(ctx context.Context, addr string, t Ticket, parts [][]byte) (*stream, <-chan error, error) {
	sl, err := p.slot(addr)
	if err != nil {
		return nil, nil, err
	}
	select {
	case sl.token <- struct{}{}:
		defer func() { <-sl.token }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if sl.stream == nil || sl.stream.broken() {
		if sl.stream, err = p.dial(ctx, addr); err != nil {
			return nil, nil, err
		}
	}
	wait, err := sl.stream.write(ctx, t, parts)
	return sl.stream, wait, err
}

func (p *Pool) slot(addr string) (*slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, recovery.Errorf(recovery.Cancelled, "transfer: pool closed")
	}
	s := p.streams[addr]
	if s == nil {
		s = &slot{token: make(chan struct{}, 1)}
		if p.streams == nil {
			p.streams = map[string]*slot{}
		}
		p.streams[addr] = s
	}
	return s, nil
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
		return nil, recovery.Errorf(recovery.Cancelled, "transfer: pool closed")
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
