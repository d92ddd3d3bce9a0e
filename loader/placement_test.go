package loader

import (
	"path/filepath"
	"strings"
	"testing"

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
