package transfer

import (
	"context"
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

// stepBytes is how much is read between two looks at whether it still may be.
const stepBytes = 4 << 20

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

// readMemory fills dst from the places of another process, which are as long
// together, until ctx ends.
func readMemory(ctx context.Context, pid int, from []place, dst [][]byte) error {
	for _, to := range dst {
		for len(to) > 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if len(from) == 0 {
				return errors.New("transfer: the sender's memory is shorter than its ticket")
			}
			n := int(min(uint64(len(to)), from[0].bytes, stepBytes))
			local := []unix.Iovec{{Base: &to[0]}}
			local[0].SetLen(n)
			got, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(from[0].addr), Len: n}}, 0)
			if err == nil && got == 0 {
				err = unix.EFAULT
			}
			if err != nil {
				return recovery.Errorf(recovery.Reset, "transfer: read %d bytes of process %d: %w", n, pid, err)
			}
			to = to[got:]
			if from[0].bytes -= uint64(got); from[0].bytes == 0 {
				from = from[1:]
			} else {
				from[0].addr += uint64(got)
			}
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
	err := readMemory(context.Background(), int(p.pid), []place{{p.addr, uint64(len(found))}}, [][]byte{found[:]})
	return err == nil && found == p.number
}

// sameMachine reports whether both ends of c have the same address.
func sameMachine(c net.Conn) bool {
	here, ok := c.LocalAddr().(*net.TCPAddr)
	there, ok2 := c.RemoteAddr().(*net.TCPAddr)
	return ok && ok2 && here.IP.Equal(there.IP)
}
