package placement

import (
	"fmt"
	"slices"
)

// distance says how far apart devices are: 0 all reach each other by NVLink
// and are attached to one NUMA node, 1 by NVLink, 2 attached to one NUMA node,
// 3 at one worker, and one more for each further worker.
func (b *board) distance(on []int) int {
	sites := 0
	node, known, linked := true, true, true
	for i, d := range on {
		dev, before := &b.devices[d], on[:i]
		if !slices.ContainsFunc(before, func(o int) bool { return b.site[o] == b.site[d] }) {
			sites++
		}
		node = node && dev.NUMA == b.devices[on[0]].NUMA
		known = known && dev.NUMA >= 0
		linked = linked && sites == 1 && !slices.ContainsFunc(before, func(o int) bool { return !b.linked(d, o) })
	}
	switch {
	case sites > 1:
		return 2 + sites
	case linked && node:
		return 0
	case linked:
		return 1
	case node && known:
		return 2
	}
	return 3
}

// linked reports whether two devices of a worker reach each other by NVLink.
func (b *board) linked(x, y int) bool {
	return x == y || slices.Contains(b.devices[x].Peers, b.devices[y].ID) && slices.Contains(b.devices[y].Peers, b.devices[x].ID)
}

// domains lists sets of devices that are close together, and last the set of
// all. Each is in the board's order.
func (b *board) domains() [][]int {
	var out [][]int
	seen := map[string]bool{}
	add := func(domain []int) {
		if key := fmt.Sprint(domain); !seen[key] {
			seen[key] = true
			out = append(out, domain)
		}
	}
	for site := range b.crowd {
		own := where(b.order, func(d int) bool { return b.site[d] == site })
		for _, seed := range own {
			near := where(own, func(d int) bool { return b.devices[d].NUMA == b.devices[seed].NUMA })
			add(b.clique(seed, near))
			add(b.clique(seed, own))
			add(near)
			add(own)
		}
	}
	return append(out, b.order)
}

// where returns the devices that a condition holds for.
func where(devices []int, holds func(d int) bool) []int {
	return slices.DeleteFunc(slices.Clone(devices), func(d int) bool { return !holds(d) })
}

// clique returns a set of devices with room, around one, that all reach each
// other by NVLink.
func (b *board) clique(seed int, among []int) []int {
	set := []int{seed}
	for _, d := range among {
		if d != seed && b.devices[d].Ranks != 0 && !slices.ContainsFunc(set, func(o int) bool { return !b.linked(d, o) }) {
			set = append(set, d)
		}
	}
	slices.SortFunc(set, func(x, y int) int { return b.place[x] - b.place[y] })
	return set
}
