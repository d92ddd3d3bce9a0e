package actors

import (
	"maps"
	"slices"

	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
)

// counted adds to the report what a rank found of values that are not finite,
// or puts it in the place of what its earlier home found. The report may be
// read elsewhere already, so it gets a new one each time.
func (r *recorder) counted(rank int, v loader.Validation) {
	if !v.Counted {
		return
	}
	if r.found == nil {
		r.found = map[int]loader.Validation{}
	}
	r.found[rank] = v
	n := &messages.NonFinite{}
	for _, rank := range slices.Sorted(maps.Keys(r.found)) {
		v := r.found[rank]
		n.Stored, n.Placed = n.Stored.Plus(v.Stored.Once), n.Placed.Plus(v.Placed.Once)
		n.Ranks = append(n.Ranks, messages.RankNonFinite{Rank: rank, Stored: v.Stored.All, Placed: v.Placed.All})
	}
	r.job.Validation.NonFinite = n
}
