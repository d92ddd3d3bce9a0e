package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// TestPlacement: pins reach the policy, and what cannot be is refused.
func TestPlacement(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	load(t, path, WithLayout(shard.Layout{TP: 2}), WithPlacement(placement.Pin{Rank: 1, Device: "cpu"}))
	for _, c := range []struct {
		pin   placement.Pin
		class recovery.Class
		says  string
	}{
		{placement.Pin{Rank: 1, Device: "cuda:3"}, recovery.OutOfCapacity, "rank 1 is to be on cuda:3"},
		{placement.Pin{Rank: 0, Worker: "elsewhere"}, recovery.OutOfCapacity, "worker elsewhere"},
		{placement.Pin{Rank: 2, Device: "cpu"}, recovery.Usage, "ranks 0 to 1"},
	} {
		_, err := New(WithLayout(shard.Layout{TP: 2}), WithPlacement(c.pin)).Load(t.Context(), path)
		if recovery.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want class %s and %q", c.pin, err, c.class, c.says)
		}
	}
}

// TestModelRequires: what a model asks for is held against this machine.
func TestModelRequires(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(testdata(t, "stories260K"), "hf-f32"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.RequireName), []byte(`{"cpu_features": ["abacus"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New().Load(t.Context(), dir)
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "no abacus") {
		t.Errorf("%v, want class out_of_capacity", err)
	}
}

// TestMlock: what is placed is locked, and no longer when the model is closed.
func TestMlock(t *testing.T) {
	m, err := New(WithMlock(true)).Load(t.Context(), filepath.Join(testdata(t, "stories260K"), "hf-f32"))
	if err != nil {
		t.Fatal(err)
	}
	if n := lockedKiB(t); n < m.Plan().PlacedBytes>>10 {
		t.Errorf("%d KiB are locked, of %d bytes placed", n, m.Plan().PlacedBytes)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if n := lockedKiB(t); n != 0 {
		t.Errorf("%d KiB are locked after Close", n)
	}
}

// lockedKiB is how much memory this process has locked.
func lockedKiB(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
