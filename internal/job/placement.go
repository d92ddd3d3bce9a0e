package job

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/recovery"
)

// need is a rank that looks for a place.
type need struct {
	rank  int
	bytes int64
}

// spot is one device of a worker, with what is left of its room.
type spot struct {
	worker string
	device string
	free   int64
	ranks  int // it may still take; negative: no limit
	held   int // ranks that the whole worker holds
}

func (s spot) takes(bytes int64) bool { return s.ranks != 0 && bytes <= s.free }

// assign finds a spot for each need: the index of its spot, or -1. It spreads
// the ranks evenly; where that leaves one out it packs them tightly instead,
// if that places more. No spot gets more than it takes. spots is not changed.
func assign(needs []need, spots []spot) []int {
	even, placed := spread(needs, slices.Clone(spots))
	if placed == len(needs) {
		return even
	}
	if tight, n := pack(needs, slices.Clone(spots)); n > placed {
		return tight
	}
	return even
}

// spread gives the needs, in order, to the worker with the fewest ranks, then
// the most free room, then by name.
func spread(needs []need, spots []spot) ([]int, int) {
	return fill(needs, spots, func(a, b spot) int {
		return cmp.Or(cmp.Compare(a.held, b.held), cmp.Compare(b.free, a.free),
			cmp.Compare(a.worker, b.worker), cmp.Compare(a.device, b.device))
	})
}

// pack gives the needs, largest first, to the spot with the least room that
// takes them (best fit decreasing).
func pack(needs []need, spots []spot) ([]int, int) {
	order := make([]int, len(needs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(needs[b].bytes, needs[a].bytes) })
	sorted := make([]need, len(needs))
	for i, at := range order {
		sorted[i] = needs[at]
	}
	found, placed := fill(sorted, spots, func(a, b spot) int {
		return cmp.Or(cmp.Compare(a.free, b.free), cmp.Compare(a.worker, b.worker), cmp.Compare(a.device, b.device))
	})
	in := make([]int, len(needs))
	for i, at := range order {
		in[at] = found[i]
	}
	return in, placed
}

// fill gives each need in turn the first spot, by the given order, of those
// that take it. It uses spots up.
func fill(needs []need, spots []spot, order func(a, b spot) int) (found []int, placed int) {
	found = make([]int, len(needs))
	for i, n := range needs {
		best := -1
		for s := range spots {
			if spots[s].takes(n.bytes) && (best < 0 || order(spots[s], spots[best]) < 0) {
				best = s
			}
		}
		found[i] = best
		if best < 0 {
			continue
		}
		placed++
		spots[best].free -= n.bytes
		spots[best].ranks--
		for s := range spots {
			if spots[s].worker == spots[best].worker {
				spots[s].held++
			}
		}
	}
	return found, placed
}

// noRoom says what is missing for the needs that found no spot.
func noRoom(needs []need, spots []spot, found []int) error {
	if len(spots) == 0 {
		return &recovery.Error{Class: recovery.OutOfCapacity, Op: "place ranks",
			Err:  fmt.Errorf("no worker has joined with a device for %d ranks", len(needs)),
			Hint: "start a worker"}
	}
	var all, out, free, largest int64
	var left, first int
	for i, n := range needs {
		all += n.bytes
		if found[i] < 0 {
			if left == 0 {
				first = i
			}
			left++
			out += n.bytes
		}
	}
	for _, s := range spots {
		if s.ranks == 0 {
			continue
		}
		free += max(s.free, 0)
		largest = max(largest, s.free)
	}
	return &recovery.Error{Class: recovery.OutOfCapacity, Op: "place ranks",
		Err: fmt.Errorf("no room for %d of %d ranks (%s of %s); rank %d alone needs %s; %s is free on %d devices, at most %s on one",
			left, len(needs), size(out), size(all), needs[first].rank, size(needs[first].bytes), size(free), len(spots), size(largest)),
		Hint: "add workers or memory, use more ranks, or a smaller scheme"}
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), -1
	for f >= 1<<10 {
		f /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.2f %ciB (%d B)", f, "KMGTPE"[unit], n)
}
