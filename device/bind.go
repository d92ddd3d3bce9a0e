package device

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// anyNode is the node of an arena that lies on no one node.
const anyNode = -1

// nodeFor chooses the NUMA node of an arena of some bytes: of the nodes with
// processors (others are memory of devices, or slow) the one with the most
// free memory, less what is promised there, if all of the arena fits there.
func nodeFor(nodes []NUMANode, promised map[int]int64, bytes int64) int {
	best, most := anyNode, bytes-1
	for _, n := range nodes {
		if free := n.Free - promised[n.Node]; n.CPUs != "" && free > most {
			best, most = n.Node, free
		}
	}
	return best
}

// bind has the kernel take memory that is not present yet from a node, or from
// all that have processors in turn. Where it must not, as in a container
// without CAP_SYS_NICE, the memory comes from where a thread first touches it.
func bind(b []byte, nodes []NUMANode, node int) error {
	mode, mask := uintptr(unix.MPOL_BIND), []uint64{0}
	set := func(n int) {
		for n/64 >= len(mask) {
			mask = append(mask, 0)
		}
		mask[n/64] |= 1 << (n % 64)
	}
	if node != anyNode {
		set(node)
	} else {
		mode = unix.MPOL_INTERLEAVE
		for _, n := range nodes {
			if n.CPUs != "" {
				set(n.Node)
			}
		}
	}
	// The kernel reads one bit less than it is told of.
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		mode, uintptr(unsafe.Pointer(&mask[0])), uintptr(64*len(mask)+1), 0)
	if errno != 0 {
		return os.NewSyscallError("mbind", errno)
	}
	return nil
}

// tryBind says whether arenas of this process can be bound to nodes.
func tryBind(nodes []NUMANode) error {
	b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	err = bind(b, nodes, nodes[0].Node)
	if unmapping := unix.Munmap(b); err == nil {
		err = unmapping
	}
	return err
}
