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
	if n := Bytes(func() {}); n > Slack {
		t.Errorf("%d bytes of nothing", n)
	}
}
