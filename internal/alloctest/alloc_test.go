package alloctest

import (
	"runtime"
	"testing"
)

var kept []byte

// TestBytes counts what is allocated, kept or not.
func TestBytes(t *testing.T) {
	n := Bytes(func() {
		for range 10 {
			kept = make([]byte, 1<<20)
		}
	})
	if n < 10<<20 || n > 11<<20 {
		t.Errorf("%d bytes of 10 MiB", n)
	}
	if n, over := Over(0, func() {}); over {
		t.Errorf("%d bytes of nothing", n)
	}
	if n, over := Over(1<<20, func() { kept = make([]byte, 2<<20) }); !over || n < 2<<20 {
		t.Errorf("%d bytes of 2 MiB, over 1 MiB %v", n, over)
	}
}

// TestCollection: what was allocated before f is not f's, even where it lies in
// spans that a collection within f hands back.
func TestCollection(t *testing.T) {
	for range 20 {
		var before [][]byte
		for size := 8; size <= 32<<10; size += size/8 + 8 {
			before = append(before, make([]byte, size))
		}
		if n := Bytes(runtime.GC); n > 64<<10 {
			t.Errorf("%d bytes of a collection", n)
		}
		runtime.KeepAlive(before)
	}
}
