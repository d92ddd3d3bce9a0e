package device

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"unsafe"

	"github.com/gantry-ml/gantry/recovery"
)

func TestHostArenaStartsAtAHugePage(t *testing.T) {
	for range 3 {
		a, err := newHostArena(100)
		if err != nil {
			t.Fatal(err)
		}
		if p := uintptr(unsafe.Pointer(&a.Host()[0])); p%hugePage != 0 {
			t.Errorf("the arena starts at %#x", p)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPromisesAddUp: two arenas that each fit, but not both, are not both
// granted before their memory is present.
func TestPromisesAddUp(t *testing.T) {
	mem, err := readMemory(rootFS)
	if err != nil {
		t.Fatal(err)
	}
	most := mem.Free / 4 * 3
	a, err := newHostArena(most)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newHostArena(most); recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("a second arena of 3/4 of the free memory: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := newHostArena(most)
	if err != nil {
		t.Fatalf("after the first is closed: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestPrefaultStopsWhereMemoryRunsOut: another program takes what was promised.
func TestPrefaultStopsWhereMemoryRunsOut(t *testing.T) {
	a, err := newHostArena(600 << 20)
	if err != nil {
		t.Fatal(err)
	}
	real := rootFS
	rootFS = fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: 1000000 kB\nMemAvailable: 100000 kB\n")}}
	err = a.Prefault(t.Context(), 2)
	rootFS = real
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "something else took them") {
		t.Errorf("%v, want class out_of_capacity", err)
	}
	if got := promised.on[a.node]; got != 600<<20 {
		t.Errorf("%d bytes are promised of an arena that is not present", got)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if got := promised.on[a.node]; got != 0 {
		t.Errorf("%d bytes are promised of an arena that is closed", got)
	}
}

func TestTouchKeepsBytes(t *testing.T) {
	a, err := newHostArena(1<<20 + 4097)
	if err != nil {
		t.Fatal(err)
	}
	h := a.Host()
	for i := range h {
		h[i] = byte(i * 7)
	}
	want := bytes.Clone(h)
	if err := prefault(t.Context(), h, 3, touch); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(h, want) {
		t.Error("touching changed bytes")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkPrefault compares the ways to make 1 GiB present.
func BenchmarkPrefault(b *testing.B) {
	const size = 1 << 30
	for _, way := range []struct {
		name string
		fill func([]byte) error
	}{{"populate", populate}, {"touch", touch}} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", way.name, threads), func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					a, err := newHostArena(size)
					if err != nil {
						b.Fatal(err)
					}
					if err := prefault(b.Context(), a.Host(), threads, way.fill); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if err := a.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}
