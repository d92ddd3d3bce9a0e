package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/shard"
)

// TestMatrix lets a worker be killed and frozen at each point of a load that
// has replicas: soon after its start, in the middle and near its end. It takes
// minutes, and runs where GANTRY_MATRIX is set: make test-cluster.
func TestMatrix(t *testing.T) {
	if !whole() {
		t.Skip("set GANTRY_MATRIX=1, or run make test-cluster")
	}
	t.Parallel()
	s := newStorm(t)
	for _, f := range []fault{
		{what: kill, victim: holder},
		{what: kill, victim: holder, length: beyondLease},
		{what: freeze, victim: holder, length: time.Second},
		{what: freeze, victim: holder, length: beyondLease},
	} {
		for _, f.at = range []float64{.05, .5, .95} {
			s.run(matrixTrial(f))
		}
	}
	s.run(matrixTrial(fault{what: freeze, victim: holder, length: 30 * time.Second, at: .5}))
	for _, flaky := range []int{10, 30} {
		x := matrixTrial()
		x.name, x.remote, x.flaky = fmt.Sprintf("flaky-%d", flaky), true, flaky
		s.run(x)
	}
	s.checkLeaks()
}

// matrixTrial is a load of two ranks and two replicas of them, with faults.
func matrixTrial(faults ...fault) trial {
	name := "matrix"
	for _, f := range faults {
		name += fmt.Sprintf("-%s-%.0f-%s", strings.ReplaceAll(string(f.what), " ", "_"), 100*f.at, f.length)
	}
	return trial{
		name: name, variant: "hf-f32", faults: faults,
		options: shard.Options{Layout: shard.Layout{TP: 2, DP: 2}, Scheme: "q8_0", ChunkBytes: shard.MinChunkBytes},
	}
}
