package device

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestNodeFor(t *testing.T) {
	nodes := []NUMANode{{Node: 0, CPUs: "0-3", Free: 50}, {Node: 1, CPUs: "4-7", Free: 80}, {Node: 2, CPUs: "", Free: 500}}
	for _, c := range []struct {
		bytes    int64
		promised map[int]int64
		want     int
	}{
		{10, nil, 1},
		{10, map[int]int64{1: 31}, 0},
		{50, map[int]int64{1: 31}, 0},
		{51, map[int]int64{1: 31}, anyNode}, // more than either has
		{80, nil, 1},
		{81, nil, anyNode}, // and never on a node without processors
	} {
		if got := nodeFor(nodes, c.promised, c.bytes); got != c.want {
			t.Errorf("%d bytes with %v promised: node %d, want %d", c.bytes, c.promised, got, c.want)
		}
	}
}

// policyOf asks the kernel for the memory policy of b and its first nodes.
func policyOf(t *testing.T, b []byte) (mode int32, nodes uint64) {
	t.Helper()
	mask := make([]uint64, 1024/64)
	if _, _, errno := unix.Syscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&mode)), uintptr(unsafe.Pointer(&mask[0])),
		1025, uintptr(unsafe.Pointer(&b[0])), unix.MPOL_F_ADDR, 0); errno != 0 {
		t.Skipf("this kernel tells no memory policy: %v", errno)
	}
	return mode, mask[0]
}

// TestBind goes as far as a machine with one node lets it.
func TestBind(t *testing.T) {
	nodes := []NUMANode{{Node: 0, CPUs: "0"}}
	if err := tryBind(nodes); err != nil {
		t.Skipf("memory cannot be bound here: %v", err)
	}
	for node, want := range map[int]int32{0: unix.MPOL_BIND, anyNode: unix.MPOL_INTERLEAVE} {
		a, err := newHostArena(3 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if err := bind(a.host, nodes, node); err != nil {
			t.Errorf("node %d: %v", node, err)
		}
		if err := a.Prefault(t.Context(), 2); err != nil {
			t.Error(err)
		}
		if mode, on := policyOf(t, a.host); mode != want || on != 1 {
			t.Errorf("node %d: policy %d on nodes %b, want %d on node 0", node, mode, on, want)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := tryBind([]NUMANode{{Node: 900, CPUs: "0"}}); err == nil {
		t.Error("memory was bound to a node that there is not")
	}
}

// TestPromisesCountByNode: what is promised on a node is given back with it.
func TestPromisesCountByNode(t *testing.T) {
	a, err := newHostArena(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if got := promised.on[a.node]; got != 1<<20 {
		t.Errorf("%d bytes are promised on node %d", got, a.node)
	}
	if err := a.Prefault(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if got := promised.on[a.node]; got != 0 {
		t.Errorf("%d bytes are promised on node %d when they are present", got, a.node)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
