package alloctest

import "testing"

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
