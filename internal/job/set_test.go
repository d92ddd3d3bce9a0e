package job

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s set
		model := map[int]bool{}
		limit := rapid.SampledFrom([]int{10, 64, 65, 5000, 300000}).Draw(t, "limit")
		for range rapid.IntRange(0, 60).Draw(t, "operations") {
			i := rapid.IntRange(0, limit).Draw(t, "number")
			if rapid.IntRange(0, 2).Draw(t, "operation") == 0 {
				s.remove(i)
				delete(model, i)
			} else {
				s.add(i)
				model[i] = true
			}
			var sorted []int
			for n := range model {
				sorted = append(sorted, n)
			}
			slices.Sort(sorted)
			next, last, first := -1, -1, -1
			if len(sorted) > 0 {
				first, last = sorted[0], sorted[len(sorted)-1]
				if at, _ := slices.BinarySearch(sorted, i); at < len(sorted) {
					next = sorted[at]
				}
			}
			before := -1
			if at, _ := slices.BinarySearch(sorted, i); at > 0 {
				before = sorted[at-1]
			}
			if got := s.before(i); got != before {
				t.Fatalf("%v: before(%d) %d, want %d", sorted, i, got, before)
			}
			after := first
			if at, _ := slices.BinarySearch(sorted, i+1); at < len(sorted) {
				after = sorted[at]
			}
			if s.next(i) != next || s.last() != last || s.after(i) != after || s.empty() != (first < 0) {
				t.Fatalf("%v: next(%d) %d, last %d, after %d; want %d, %d, %d", sorted, i, s.next(i), s.last(), s.after(i), next, last, after)
			}
		}
	})
}
