package transfer

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// BenchmarkSend sets the rate of pieces against a bare TCP stream that moves
// the same bytes into the same reused memory, on the same machine in the same run.
func BenchmarkSend(b *testing.B) {
	const n = 8 << 20
	tk, _, body := piece(1, n)
	for name, streamOnly := range map[string]bool{"memory": false, "stream": true} {
		b.Run(name, func(b *testing.B) {
			srv, err := Listen("127.0.0.1:0", &reuseSink{buf: make([]byte, n)}, Security{})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Close()
			p := &Pool{StreamOnly: streamOnly}
			defer p.Close()
			b.SetBytes(n)
			var wg sync.WaitGroup
			next := make(chan struct{})
			for range 2 { // two chunks at once, as a node with two cores has
				wg.Go(func() {
					for range next {
						if err := p.Send(b.Context(), srv.Addr(), tk, [][]byte{body}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				next <- struct{}{}
			}
			close(next)
			wg.Wait()
		})
	}
	b.Run("raw", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			buf := make([]byte, n)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
			}
		}()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		for b.Loop() {
			if _, err := c.Write(body); err != nil {
				b.Fatal(err)
			}
		}
		c.Close()
		<-done
	})
}

// reuseSink lands every piece in the same memory.
type reuseSink struct{ buf []byte }

func (s *reuseSink) Receive(t Ticket) (Landing, error) { return reuseLanding{s, t}, nil }

type reuseLanding struct {
	s *reuseSink
	t Ticket
}

func (l reuseLanding) Parts() [][]byte          { return [][]byte{l.s.buf[:l.t.Bytes]} }
func (l reuseLanding) Context() context.Context { return context.Background() }
func (l reuseLanding) Abort()                   {}
func (l reuseLanding) Commit() error {
	if sum(l.s.buf[:l.t.Bytes]) != l.t.Digest {
		return recovery.Errorf(recovery.DigestMismatch, "damaged")
	}
	return nil
}
