package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// A piece that moves slower than minRate, after grace, is given up: its
// sender is frozen or the network is gone, and its ticket must not be held.
const (
	grace   = 30 * time.Second
	minRate = 1 << 20 // bytes per second
)

// patience is how long one piece may take on the wire.
func patience(bytes int64) time.Duration {
	return grace + time.Duration(bytes)*time.Second/minRate
}

// Server receives pieces for a Sink.
type Server struct {
	sink     Sink
	tls      *tls.Config // nil: streams are plain
	refused  func(net.Addr, error)
	listener net.Listener

	mu      sync.Mutex
	streams map[net.Conn]struct{} // nil once closed
	wg      sync.WaitGroup        // the acceptor and every stream
}

// Security is how streams are protected. The zero value is plain streams
// within this machine.
type Security struct {
	// TLS, where set, is used by both sides: its certificates serve and call,
	// its RootCAs and ClientCAs say whom to trust. It must ask for client
	// certificates.
	TLS *tls.Config
	// Insecure allows plain streams beyond loopback.
	Insecure bool
	// Refused, where set, hears of who shows no good certificate.
	Refused func(who net.Addr, err error)
}

// protocol is what both sides of a protected stream must want to speak, so
// that neither takes another service's connection for one.
const protocol = "gantry-transfer"

// config returns the TLS configuration of a stream, nil for a plain one.
func (s Security) config() *tls.Config {
	if s.TLS == nil {
		return nil
	}
	c := s.TLS.Clone()
	c.NextProtos = []string{protocol}
	return c
}

// Listen receives pieces at addr; port 0 takes a free one. Beyond loopback
// streams must be protected: it fails with class not_allowed otherwise.
func Listen(addr string, sink Sink, o Security) (*Server, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.Usage, Op: "listen", File: addr, Err: err}
	}
	config := o.config()
	if config != nil && config.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, recovery.Errorf(recovery.Usage, "listen for pieces on %s: the TLS configuration does not require client certificates", addr)
	}
	if !a.IP.IsLoopback() && config == nil {
		if !o.Insecure {
			return nil, &recovery.Error{Class: recovery.NotAllowed, Op: "listen", File: addr,
				Err:  errors.New("pieces would travel unencrypted, and anybody could send some"),
				Hint: "give --tls-cert, --tls-key and --tls-ca, or use a loopback address such as 127.0.0.1:0"}
		}
		slog.Warn("INSECURE: pieces of weights are received beyond loopback without TLS: they can be read and forged on their way", "listen", addr)
	}
	l, err := net.ListenTCP("tcp", a)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.Unavailable, Op: "listen", File: addr, Err: err}
	}
	s := &Server{sink: sink, tls: config, refused: o.Refused, listener: l, streams: map[net.Conn]struct{}{}}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// Addr is where senders reach the server.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends every stream, aborts what is being received and waits for it.
func (s *Server) Close() error {
	s.mu.Lock()
	streams := s.streams
	s.streams = nil
	s.mu.Unlock()
	if streams == nil {
		return nil
	}
	err := s.listener.Close()
	for c := range streams {
		c.Close() // ends its reader, which reports nothing: nobody waits for it any more
	}
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	defer s.wg.Done()
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, or a peer that left before it was
			// accepted. Neither ends the server; the pause keeps the first
			// from spinning.
			time.Sleep(5 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		open := s.streams != nil
		if open {
			s.streams[c] = struct{}{}
			s.wg.Add(1)
		}
		s.mu.Unlock()
		if !open {
			c.Close()
			return
		}
		go func() {
			defer s.wg.Done()
			s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.streams, c)
			s.mu.Unlock()
		}()
	}
}

// serve receives one stream's pieces until the stream ends or breaks. A
// broken stream needs no report here: the sender sees it closed. One that
// shows no good certificate is told so by its handshake.
func (s *Server) serve(c net.Conn) {
	c.SetDeadline(time.Now().Add(grace))
	if s.tls != nil {
		secured := tls.Server(c, s.tls)
		if err := secured.Handshake(); err != nil {
			if s.refused != nil {
				s.refused(c.RemoteAddr(), err)
			}
			return
		}
		c = secured
	}
	if err := greet(c); err != nil {
		return
	}
	peer, readable, err := answerProbe(c)
	if err != nil {
		return
	}
	var out []byte
	for {
		c.SetDeadline(time.Time{}) // between pieces a stream may rest as long as it likes
		t, err := readTicket(c)
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(patience(t.Bytes)))
		var places []place
		if readable {
			if places, err = readPlaces(c, t.Bytes); err != nil {
				return
			}
		}
		var refusal error
		if len(places) > 0 {
			refusal = take(int(peer.pid), places, s.sink, t)
		} else {
			refusal, err = receive(c, s.sink, t)
		}
		if err != nil {
			return
		}
		out = appendResult(out[:0], refusal)
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// receive takes t's payload from c: into its landing where the sink grants
// one, nowhere otherwise. It returns the sink's refusal, and in err why the
// stream cannot go on.
func receive(c net.Conn, sink Sink, t Ticket) (refusal, err error) {
	l, refusal := sink.Receive(t)
	if l == nil {
		_, err := io.CopyN(io.Discard, c, t.Bytes)
		return refusal, err
	}
	// A revoked ticket's memory may be about to go: break the read off.
	stop := context.AfterFunc(l.Context(), func() { c.Close() })
	sum, err := fill(l.Parts(), func(p []byte) error {
		_, err := io.ReadFull(c, p)
		return err
	})
	if !stop() && err == nil {
		err = context.Cause(l.Context())
	}
	if err != nil {
		l.Abort()
		return nil, err
	}
	return l.Commit(sum), nil
}

// take takes t's payload from the memory of the sender. The stream goes on
// whatever comes of it.
func take(pid int, from []place, sink Sink, t Ticket) error {
	l, refusal := sink.Receive(t)
	if l == nil {
		return refusal
	}
	m := memory{pid: pid, places: from}
	sum, err := fill(l.Parts(), func(p []byte) error {
		if l.Context().Err() != nil {
			return context.Cause(l.Context())
		}
		return m.read(p)
	})
	if err != nil {
		l.Abort()
		return err
	}
	return l.Commit(sum)
}

// greet exchanges hellos and checks the other side's.
func greet(c net.Conn) error {
	if _, err := io.WriteString(c, hello); err != nil {
		return err
	}
	var b [len(hello)]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if string(b[:]) != hello {
		return fmt.Errorf("transfer: peer %s speaks %q, this side %q: run the same version on both", c.RemoteAddr(), b[:], hello)
	}
	return nil
}
