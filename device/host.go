package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

const (
	hugePage = 2 << 20
	// prefaultPart is what one thread faults in between two looks at the
	// context: a few ms of the kernel's work.
	prefaultPart = 8 << 20
)

// hostArena is private anonymous memory, huge pages where the kernel gives
// them: fresh 4 KiB pages would cap a load at a fraction of the rate. Where the
// machine has several NUMA nodes it lies on one, if it fits there.
type hostArena struct {
	life
	mapping []byte      // what is mapped, up to a huge page more than host
	host    []byte      // the arena: starts at a huge page's boundary
	node    int         // NUMA node that it is bound to, or anyNode
	pending atomic.Bool // still counts in promised
}

// promised is the size of the arenas that were granted but are not present
// yet. The kernel does not count them as used, so the next arena's check of
// free memory must.
var promised = struct {
	sync.Mutex
	bytes int64
	on    map[int]int64 // by NUMA node
}{on: map[int]int64{}}

func newHostArena(bytes int64) (*hostArena, error) {
	a := &hostArena{}
	return a, a.make(bytes, noFile)
}

// noFile is the file of private memory.
const noFile = -1

// make makes the arena, in a file that has nothing in it yet or in private
// memory.
func (a *hostArena) make(bytes int64, file int) error {
	a.life, a.host, a.node = life{device: CPU, size: bytes}, []byte{}, anyNode
	if bytes == 0 {
		return nil
	}
	nodes, err := a.promise()
	if err != nil {
		return err
	}
	page := int64(os.Getpagesize())
	length := (bytes + page - 1) / page * page
	m, body, err := mapArena(length, file)
	if err != nil {
		a.settle()
		return noRoom(bytes, err)
	}
	// Only the arena's own pages are advised, so that no huge page reaches
	// over its end. A kernel without huge pages answers EINVAL: then the
	// arena has small ones, which is slower and otherwise the same.
	if err := unix.Madvise(body, unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		a.settle()
		return errors.Join(fmt.Errorf("device: madvise huge pages: %w", err), unix.Munmap(m))
	}
	if len(nodes) > 1 {
		_ = bind(body, nodes, a.node) // a wish: Detect tells where it is refused
	}
	a.mapping, a.host = m, body[:bytes:bytes]
	return nil
}

// mapArena maps memory of the given length, whole pages, and returns what is
// mapped and the arena in it. That of a file begins with the file; private
// memory begins at a huge page's boundary.
func mapArena(length int64, file int) (mapping, body []byte, err error) {
	if file != noFile {
		if err := unix.Ftruncate(file, length); err != nil {
			return nil, nil, fmt.Errorf("ftruncate: %w", err)
		}
		m, err := unix.Mmap(file, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, nil, fmt.Errorf("mmap: %w", err)
		}
		return m, m, nil
	}
	m, err := unix.Mmap(-1, 0, int(length+hugePage), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("mmap: %w", err)
	}
	start := -uintptr(unsafe.Pointer(&m[0])) & (hugePage - 1)
	return m, m[start : start+uintptr(length)], nil
}

// promise books free memory for the arena and chooses its NUMA node, of those
// that it returns, or says what is missing.
func (a *hostArena) promise() ([]NUMANode, error) {
	mem, err := readMemory(rootFS)
	if err != nil {
		return nil, err
	}
	nodes, err := numaNodes(rootFS)
	if err != nil {
		return nil, err
	}
	promised.Lock()
	defer promised.Unlock()
	if free := mem.Free - promised.bytes; a.size > free {
		return nil, noRoom(a.size, fmt.Errorf("%d bytes of memory are free", max(free, 0)))
	}
	a.node = nodeFor(nodes, promised.on, a.size)
	promised.bytes += a.size
	promised.on[a.node] += a.size
	a.pending.Store(true)
	return nodes, nil
}

// settle ends the arena's promise: it is present, or gone.
func (a *hostArena) settle() {
	if a.pending.CompareAndSwap(true, false) {
		promised.Lock()
		promised.bytes -= a.size
		promised.on[a.node] -= a.size
		promised.Unlock()
	}
}

func noRoom(bytes int64, why error) error {
	return &recovery.Error{
		Class: recovery.OutOfCapacity,
		Op:    fmt.Sprintf("make an arena of %d bytes on %s", bytes, CPU),
		Err:   why,
		Hint:  "free memory, quantize further, or spread the ranks over more workers",
	}
}

func (a *hostArena) Host() []byte {
	a.checks.Use("arena")
	return a.host
}

func (a *hostArena) CopyIn(off int64, p []byte) error {
	if err := a.within(off, len(p)); err != nil {
		return err
	}
	copy(a.host[off:], p)
	return nil
}

func (a *hostArena) CopyOut(p []byte, off int64) error {
	if err := a.within(off, len(p)); err != nil {
		return err
	}
	copy(p, a.host[off:])
	return nil
}

// Close unmaps the arena. Its owner sees to it that nothing reads or writes
// any more: a slice of Host that is used afterwards faults.
func (a *hostArena) Close() error {
	if err := a.end(); err != nil {
		return err
	}
	a.settle()
	m := a.mapping
	a.mapping, a.host = nil, nil
	if m == nil {
		return nil
	}
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("device: unmap arena: %w", err)
	}
	return nil
}

func (a *hostArena) Prefault(ctx context.Context, threads int) error {
	if err := a.use(); err != nil {
		return err
	}
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	var made atomic.Int64
	err := prefault(ctx, a.host, threads, func(b []byte) error {
		if n := made.Add(int64(len(b))); n/lookEvery > (n-int64(len(b)))/lookEvery {
			if err := a.stillFits(a.size - n); err != nil {
				return err
			}
		}
		return populate(b)
	})
	if errors.Is(err, unix.ENOMEM) {
		return noRoom(a.size, err)
	}
	if err != nil {
		return err
	}
	a.settle()
	return nil
}

// lookEvery is how much memory is made present between two looks at what is
// free, of a third of a millisecond each; spare is left for whoever needs
// memory meanwhile.
const (
	lookEvery = 256 << 20
	spare     = 64 << 20
)

// stillFits checks that what is left to be made present may be, until the next
// look. What was promised may be another program's by now, such as an arena of
// another worker on this machine: one that does not fit after all is an error,
// where the kernel would end some process.
func (a *hostArena) stillFits(left int64) error {
	mem, err := readMemory(rootFS)
	if err == nil && mem.Free < min(left, lookEvery)+spare {
		err = noRoom(a.size, fmt.Errorf("%d bytes of memory are left free while it is made: something else took them", mem.Free))
	}
	return err
}

// prefault runs fill over b in parts, on several threads.
func prefault(ctx context.Context, b []byte, threads int, fill func([]byte) error) error {
	parts := (len(b) + prefaultPart - 1) / prefaultPart
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(threads, parts) {
		g.Go(func() error {
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				at := int(next.Add(1)-1) * prefaultPart
				if at >= len(b) {
					return nil
				}
				if err := fill(b[at:min(at+prefaultPart, len(b))]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// populate makes b's pages present in one call where the kernel can (Linux
// 5.14), and by touching them where it cannot.
func populate(b []byte) error {
	for {
		err := unix.Madvise(b, unix.MADV_POPULATE_WRITE)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EINVAL):
			return touch(b)
		}
		return fmt.Errorf("device: populate %d bytes: %w", len(b), err)
	}
}

// touch writes to every page of b without changing a byte, not even one that
// another goroutine writes at the same time. b starts at a page's boundary.
func touch(b []byte) error {
	for at := 0; at+4 <= len(b); at += os.Getpagesize() {
		atomic.OrUint32((*uint32)(unsafe.Pointer(&b[at])), 0)
	}
	return nil
}
