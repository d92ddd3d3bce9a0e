package transfer

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// A worker on the same machine takes pieces straight from the sender's memory
// (process_vm_readv(2), which MPI libraries call cross-memory attach): one copy
// by the kernel, where a socket has two and its buffers between them. Whether
// that is allowed depends on user, namespaces and the kernel's settings, so it
// is tried when a stream is opened: the dialer says where a random number lies
// in its memory, and the listener reads it there.

// place is a range of a process's memory.
type place struct{ addr, bytes uint64 }

// placesOf returns where parts lie in this process. The caller keeps them
// alive until they have been read.
func placesOf(parts [][]byte) []place {
	out := make([]place, 0, len(parts))
	for _, p := range parts {
		if len(p) > 0 {
			out = append(out, place{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))), uint64(len(p))})
		}
	}
	return out
}

// memory reads the places of another process, one after the other.
type memory struct {
	pid    int
	places []place
}

// read fills p with what comes next.
func (m *memory) read(p []byte) error {
	for len(p) > 0 {
		if len(m.places) == 0 {
			return errors.New("transfer: the sender's memory is shorter than its ticket")
		}
		from := &m.places[0]
		n := int(min(uint64(len(p)), from.bytes))
		local := []unix.Iovec{{Base: &p[0]}}
		local[0].SetLen(n)
		got, err := unix.ProcessVMReadv(m.pid, local, []unix.RemoteIovec{{Base: uintptr(from.addr), Len: n}}, 0)
		if err == nil && got == 0 {
			err = unix.EFAULT
		}
		if err != nil {
			return recovery.Errorf(recovery.Reset, "transfer: read %d bytes of process %d: %w", n, m.pid, err)
		}
		p = p[got:]
		from.addr += uint64(got)
		if from.bytes -= uint64(got); from.bytes == 0 {
			m.places = m.places[1:]
		}
	}
	return nil
}

// probe is what a dialer shows of its memory.
type probe struct {
	pid  uint32 // 0: nothing
	addr uint64 // of number
	// number is random, so that no other process has it by chance.
	number [16]byte
}

// newProbe returns one of this process, or one that shows nothing.
func newProbe(nothing bool) *probe {
	if nothing {
		return &probe{}
	}
	p := &probe{pid: uint32(os.Getpid())}
	rand.Read(p.number[:])
	p.addr = uint64(uintptr(unsafe.Pointer(&p.number)))
	return p
}

// readable reports whether the memory of the process that showed p, at the
// other end of c, can be read.
func (p *probe) readable(c net.Conn) bool {
	if p.pid == 0 || !sameMachine(c) {
		return false
	}
	var found [16]byte
	err := (&memory{int(p.pid), []place{{p.addr, uint64(len(found))}}}).read(found[:])
	return err == nil && found == p.number
}

// sameMachine reports whether both ends of c have the same address.
func sameMachine(c net.Conn) bool {
	here, ok := c.LocalAddr().(*net.TCPAddr)
	there, ok2 := c.RemoteAddr().(*net.TCPAddr)
	return ok && ok2 && here.IP.Equal(there.IP)
}
