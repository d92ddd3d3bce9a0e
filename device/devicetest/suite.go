// Package devicetest is the suite that every kind of arena passes.
package devicetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/recovery"
)

// Run checks arenas of the device id, made by newArena.
func Run(t *testing.T, id string, newArena func(id string, bytes int64) (device.Arena, error)) {
	open := func(t *testing.T, size int64) device.Arena {
		t.Helper()
		a, err := newArena(id, size)
		if err != nil {
			t.Fatalf("arena of %d bytes: %v", size, err)
		}
		return a
	}
	for _, size := range []int64{0, 1, 4095, 4096, 2<<20 + 1, 130<<20 + 12345} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			a := open(t, size)
			defer closeArena(t, a)
			checkFresh(t, a, id, size)
			if err := a.Prefault(t.Context(), 0); err != nil {
				t.Fatalf("prefault: %v", err)
			}
			checkCopies(t, a)
		})
	}
	t.Run("prefault changes nothing", func(t *testing.T) {
		a := open(t, 70<<20)
		defer closeArena(t, a)
		want := []byte("placed before the prefault")
		for _, off := range []int64{0, 65<<20 - 3, 70<<20 - int64(len(want))} {
			must(t, a.CopyIn(off, want))
			must(t, a.Prefault(t.Context(), 2))
			got := make([]byte, len(want))
			if must(t, a.CopyOut(got, off)); !bytes.Equal(got, want) {
				t.Errorf("offset %d: %q, want %q", off, got, want)
			}
		}
	})
	t.Run("prefault stops", func(t *testing.T) {
		a := open(t, 1<<20)
		defer closeArena(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.Prefault(ctx, 2); !errors.Is(err, context.Canceled) {
			t.Errorf("prefault under a cancelled context: %v", err)
		}
	})
	t.Run("disjoint writers", func(t *testing.T) { checkWriters(t, open(t, 8<<20)) })
	t.Run("outside", func(t *testing.T) { checkOutside(t, open(t, 100)) })
	t.Run("sizes that cannot be", func(t *testing.T) {
		if _, err := newArena(id, -1); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("a negative size: %v, want class usage", err)
		}
		for _, size := range []int64{1 << 50, math.MaxInt64} {
			if _, err := newArena(id, size); recovery.ClassOf(err) != recovery.OutOfCapacity {
				t.Errorf("%d bytes: %v, want class out_of_capacity", size, err)
			}
		}
	})
	t.Run("held", func(t *testing.T) { checkHeld(t, open(t, 4096)) })
	t.Run("life", func(t *testing.T) { checkLife(t, open(t, 4096)) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closeArena(t *testing.T, a device.Arena) {
	t.Helper()
	must(t, a.Close())
}

// checkFresh: id, size, and nothing but zeros.
func checkFresh(t *testing.T, a device.Arena, id string, size int64) {
	t.Helper()
	if a.Device() != id || a.Size() != size {
		t.Errorf("arena is %s, %d bytes; want %s, %d", a.Device(), a.Size(), id, size)
	}
	if h := a.Host(); h != nil && int64(len(h)) != size {
		t.Errorf("host memory of %d bytes, want %d", len(h), size)
	}
	got := make([]byte, size)
	if must(t, a.CopyOut(got, 0)); !bytes.Equal(got, make([]byte, size)) {
		t.Error("a new arena is not zeroed")
	}
}

// checkCopies: what is copied in is copied out, at the ends and in between.
func checkCopies(t *testing.T, a device.Arena) {
	t.Helper()
	n := min(a.Size(), 1000)
	for _, off := range []int64{0, (a.Size() - n) / 2, a.Size() - n} {
		want := bytes.Repeat([]byte{byte(off) | 1}, int(n))
		must(t, a.CopyIn(off, want))
		got := make([]byte, n)
		if must(t, a.CopyOut(got, off)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes at %d did not come back", n, off)
		}
		if h := a.Host(); h != nil && !bytes.Equal(h[off:off+n], want) {
			t.Errorf("%d bytes at %d are not in host memory", n, off)
		}
	}
}

func checkWriters(t *testing.T, a device.Arena) {
	defer closeArena(t, a)
	const writers = 8
	part := a.Size() / writers
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			return a.CopyIn(int64(w)*part, bytes.Repeat([]byte{byte(w + 1)}, int(part)))
		})
	}
	must(t, g.Wait())
	got := make([]byte, a.Size())
	must(t, a.CopyOut(got, 0))
	for i, b := range got {
		if want := byte(int64(i)/part + 1); b != want {
			t.Fatalf("byte %d is %d, want %d", i, b, want)
		}
	}
}

func checkOutside(t *testing.T, a device.Arena) {
	defer closeArena(t, a)
	p := make([]byte, 10)
	for _, off := range []int64{-1, 91, 100, 101, math.MaxInt64, math.MinInt64} {
		if a.CopyIn(off, p) == nil {
			t.Errorf("copying in 10 bytes at %d of 100 was allowed", off)
		}
		if a.CopyOut(p, off) == nil {
			t.Errorf("copying out 10 bytes at %d of 100 was allowed", off)
		}
	}
	must(t, a.CopyIn(90, p))
	must(t, a.CopyIn(100, nil))
}

// checkHeld: what somebody uses where it lies is not freed under him.
func checkHeld(t *testing.T, a device.Arena) {
	defer closeArena(t, a)
	first, err := a.Hold()
	must(t, err)
	second, err := a.Hold()
	must(t, err)
	refused := func() (err error) {
		defer func() {
			if r := recover(); r != nil && invariants.Enabled {
				err = fmt.Errorf("%v", r)
			}
		}()
		return a.Close()
	}
	if refused() == nil {
		t.Fatal("an arena that two hold was closed")
	}
	first()
	if refused() == nil {
		t.Fatal("an arena that one holds was closed")
	}
	must(t, a.CopyIn(0, []byte("still there")))
	second()
}

// checkLife: misuse after Close is an error in a plain build, a panic where
// invariants are on; it never touches memory.
func checkLife(t *testing.T, a device.Arena) {
	must(t, a.Close())
	misuse := map[string]func() error{
		"close":    a.Close,
		"copy in":  func() error { return a.CopyIn(0, make([]byte, 8)) },
		"copy out": func() error { return a.CopyOut(make([]byte, 8), 0) },
		"hold":     func() error { _, err := a.Hold(); return err },
		"prefault": func() error { return a.Prefault(context.Background(), 1) },
	}
	for what, do := range misuse {
		t.Run(what, func(t *testing.T) {
			defer func() {
				if r := recover(); (r != nil) != invariants.Enabled {
					t.Errorf("panic after close: %v; invariants are on: %v", r, invariants.Enabled)
				}
			}()
			if do() == nil {
				t.Error("it was allowed on a closed arena")
			}
		})
	}
}
