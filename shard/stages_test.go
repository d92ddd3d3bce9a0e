package shard

import (
	"testing"

	"pgregory.net/rapid"
)

// TestPlanStages compares the largest stage with that of the best division,
// found by trying all.
func TestPlanStages(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		load := rapid.SliceOfN(rapid.Int64Range(0, 20), 1, 8).Draw(r, "layers")
		pp := rapid.IntRange(1, len(load)).Draw(r, "pp")
		before, after := rapid.Int64Range(0, 20).Draw(r, "before"), rapid.Int64Range(0, 20).Draw(r, "after")
		weight := map[int]int64{}
		for i, w := range load {
			weight[3*i] = w // numbers may have gaps
		}
		s, err := planStages(pp, weight, []string{"layers"}, before, after)
		if err != nil {
			r.Fatal(err)
		}
		sums := make([]int64, pp)
		sums[0] += before
		sums[pp-1] += after
		for i, last := 0, 0; i < len(load); i++ {
			stage := s.first[3*i]
			if stage != last && stage != last+1 || i == 0 && stage != 0 {
				r.Fatalf("layer %d is in stage %d after %d", i, stage, last)
			}
			last = stage
			sums[stage] += load[i]
			if i == len(load)-1 && stage != pp-1 {
				r.Fatalf("%d stages, the last layer is in %d", pp, stage)
			}
		}
		load[0] += before
		load[len(load)-1] += after
		if got, want := largest(sums), best(load, pp); got != want {
			r.Fatalf("largest stage %d, could be %d", got, want)
		}
	})
}

func largest(sums []int64) (m int64) {
	for _, s := range sums {
		m = max(m, s)
	}
	return m
}

// best returns the smallest largest sum of pp runs of at least one layer.
func best(load []int64, pp int) int64 {
	if pp == 1 {
		var sum int64
		for _, w := range load {
			sum += w
		}
		return sum
	}
	result, sum := int64(1<<62), int64(0)
	for i := range len(load) - pp + 1 {
		sum += load[i]
		result = min(result, max(sum, best(load[i+1:], pp-1)))
	}
	return result
}
