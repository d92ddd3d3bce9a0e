package transfer

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// BenchmarkSend sets the rate of pieces against bare TCP streams that move the
// same bytes into the same reused memory. Each round measures both, one after
// the other, so that what else the machine does meets both alike; of-raw is
// the median of the rounds' ratios, and cpu-of-raw that of the CPU time of
// both ends.
func BenchmarkSend(b *testing.B) {
	const n, pieces = 8 << 20, 16 // 128 MiB a round
	tk, _, body := piece(1, n)
	for name, streamOnly := range map[string]bool{"memory": false, "stream": true} {
		b.Run(name, func(b *testing.B) {
			srv, err := Listen("127.0.0.1:0", &reuseSink{}, Security{})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Close()
			p := &Pool{StreamOnly: streamOnly}
			defer p.Close()
			raw := newRaw(b, 2)
			var of, cpu, rates, bare []float64
			for b.Loop() {
				fast, fastCPU := timed(b, func() {
					twoAtOnce(pieces, func(int) {
						if err := p.Send(b.Context(), srv.Addr(), tk, [][]byte{body}); err != nil {
							b.Error(err)
						}
					})
				})
				slow, slowCPU := timed(b, func() { twoAtOnce(pieces, func(lane int) { raw.send(b, lane, body) }) })
				of = append(of, slow.Seconds()/fast.Seconds())
				cpu = append(cpu, slowCPU.Seconds()/fastCPU.Seconds())
				rates = append(rates, pieces*n/fast.Seconds()/1e9)
				bare = append(bare, pieces*n/slow.Seconds()/1e9)
			}
			b.ReportMetric(median(of), "of-raw")
			b.ReportMetric(median(cpu), "cpu-of-raw")
			b.ReportMetric(median(rates), "GB/s")
			b.ReportMetric(median(bare), "raw-GB/s")
		})
	}
}

// timed returns how long f takes, and how much CPU time.
func timed(b *testing.B, f func()) (wall, cpu time.Duration) {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began, before := time.Now(), used()
	f()
	return time.Since(began), used() - before
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// twoAtOnce does something n times, two at once, as a node with two cores does.
func twoAtOnce(n int, f func(lane int)) {
	var wg sync.WaitGroup
	for lane := range 2 {
		wg.Go(func() {
			for range n / 2 {
				f(lane)
			}
		})
	}
	wg.Wait()
}

// rawStreams is bare TCP: each piece is answered by one byte when it is there.
type rawStreams []net.Conn

func newRaw(b *testing.B, streams int) (raw rawStreams) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var receivers sync.WaitGroup
	for range streams {
		receivers.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			buf := make([]byte, 8<<20)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				if _, err := c.Write(buf[:1]); err != nil {
					return
				}
			}
		})
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		raw = append(raw, c)
	}
	b.Cleanup(func() {
		for _, c := range raw {
			c.Close()
		}
		l.Close()
		receivers.Wait()
	})
	return raw
}

func (r rawStreams) send(b *testing.B, lane int, body []byte) {
	if _, err := r[lane].Write(body); err != nil {
		b.Error(err)
	}
	var done [1]byte
	if _, err := io.ReadFull(r[lane], done[:]); err != nil {
		b.Error(err)
	}
}

// reuseSink lands every piece in memory that was used before.
type reuseSink struct{ free sync.Pool }

func (s *reuseSink) Receive(t Ticket) (Landing, error) {
	buf, _ := s.free.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, t.Bytes)
		buf = &b
	}
	return reuseLanding{s, t, buf}, nil
}

type reuseLanding struct {
	s   *reuseSink
	t   Ticket
	buf *[]byte
}

func (l reuseLanding) Parts() [][]byte          { return [][]byte{*l.buf} }
func (l reuseLanding) Context() context.Context { return context.Background() }
func (l reuseLanding) Abort()                   {}
func (l reuseLanding) Commit(got [16]byte) error {
	l.s.free.Put(l.buf)
	if got != l.t.Digest {
		return recovery.Errorf(recovery.DigestMismatch, "damaged")
	}
	return nil
}
