package transfer

import (
	"bytes"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// dialled returns a stream to srv as a dialer has it after it showed p.
func dialled(t *testing.T, srv *Server, p *probe) (c net.Conn, readable bool) {
	t.Helper()
	c, err := net.Dial("tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := greet(c); err != nil {
		t.Fatal(err)
	}
	if readable, err = showProbe(c, p); err != nil {
		t.Fatal(err)
	}
	return c, readable
}

// own skips where the system does not let a process read even its own memory.
func own(t *testing.T) *probe {
	t.Helper()
	p := newProbe(false)
	if err := (&memory{os.Getpid(), []place{{p.addr, 16}}}).read(make([]byte, 16)); err != nil {
		t.Skipf("this system refuses process_vm_readv: %v", err)
	}
	return p
}

// Memory is read only of who proves that it is his.
func TestProbe(t *testing.T) {
	p, srv := own(t), serve(t, &memSink{})
	if _, ok := dialled(t, srv, p); !ok {
		t.Error("a right probe is refused")
	}
	wrong := *p
	wrong.number[3]++
	for name, p := range map[string]*probe{
		"another number":          &wrong,
		"an address with nothing": {pid: p.pid, addr: 8, number: p.number},
		"no process":              {pid: 1<<31 - 1, addr: p.addr, number: p.number},
		"nothing":                 newProbe(true),
	} {
		if _, ok := dialled(t, srv, p); ok {
			t.Errorf("%s: taken for a right probe", name)
		}
	}
}

// On one machine that is the way a piece takes.
func TestSendShowsMemory(t *testing.T) {
	own(t)
	srv, p := serve(t, &memSink{}), pool(t)
	tk, parts, _ := piece(1, 1000)
	if err := p.Send(t.Context(), srv.Addr(), tk, parts); err != nil {
		t.Fatal(err)
	}
	if !p.peers[srv.Addr()].streams[0].readable {
		t.Error("the piece went over the stream")
	}
}

// A piece that is not, or no longer, where the sender said is refused, and
// the stream goes on.
func TestTakeFromNowhere(t *testing.T) {
	sink := &memSink{}
	srv := serve(t, sink)
	c, ok := dialled(t, srv, own(t))
	if !ok {
		t.Fatal("the probe is refused")
	}
	// As unreadable as unmapped memory, whose addresses others may be given.
	gone, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(gone)
	nowhere := placesOf([][]byte{gone})
	tk, parts, body := piece(1, 1<<20)
	ask := func(places []place) error {
		t.Helper()
		h, err := appendTicket(nil, tk)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(appendPlaces(h, places)); err != nil {
			t.Fatal(err)
		}
		refusal, err := readResult(c)
		if err != nil {
			t.Fatal(err)
		}
		return refusal
	}
	if err := ask(nowhere); recovery.ClassOf(err) != recovery.Reset || sink.aborted != 1 {
		t.Errorf("from memory that is gone: %v, %d aborted", err, sink.aborted)
	}
	if err := ask(placesOf([][]byte{parts[1], parts[0]})); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("other bytes: %v", err)
	}
	if err := ask(placesOf(parts)); err != nil || !bytes.Equal(sink.piece(1), body) {
		t.Errorf("then the right ones: %v", err)
	}
}

// Places that are not the ticket's bytes end the stream.
func TestMalformedPlaces(t *testing.T) {
	for name, places := range map[string][]place{
		"too few bytes": {{8, 99}}, "too many": {{8, 50}, {58, 51}}, "an empty one": {{8, 100}, {8, 0}}, "an overflow": {{8, 1 << 63}, {8, 1<<63 + 100}},
	} {
		if _, err := readPlaces(bytes.NewReader(appendPlaces(nil, places)), 100); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
