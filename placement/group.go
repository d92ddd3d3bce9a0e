package placement

import (
	"cmp"
	"math"
	"slices"
)

// way is one way to place the homeless ranks of a group.
type way struct {
	at    []int // device of each, -1: none
	cost  [6]int
	room  int64 // in ranks of this size, on the fullest device
	first int   // place in the board's order of the first device
}

// compare orders ways, the best first.
func (w way) compare(o way) int {
	return cmp.Or(slices.Compare(w.cost[:], o.cost[:]), cmp.Compare(o.room, w.room), cmp.Compare(w.first, o.first))
}

// best returns the best way to place the homeless ranks of a group in one of
// the domains, the last of which has all devices.
func (b *board) best(members []int, domains [][]int) []int {
	mates := b.mates(members[0])
	best := b.weigh(members, mates, domains[len(domains)-1])
	if slices.Contains(best.at, -1) {
		return best.at // no domain has more room than all of them
	}
	for _, d := range domains[:len(domains)-1] {
		if b.least(len(members), d) > best.cost[1] {
			continue // crowded, whatever else it is
		}
		if w := b.weigh(members, mates, d); w.compare(best) < 0 {
			best = w
		}
	}
	return best.at
}

// least says how many ranks some device of a domain has, at least, when so
// many more are placed there.
func (b *board) least(members int, domain []int) int {
	fewest := b.held[domain[0]]
	for _, d := range domain {
		fewest = min(fewest, b.held[d])
	}
	return fewest + (members+len(domain)-1)/len(domain)
}

// mates lists the devices of the ranks of a rank's group that have one.
func (b *board) mates(rank int) []int {
	var on []int
	for i, d := range b.found {
		if d >= 0 && b.ranks[i].Group == b.ranks[rank].Group {
			on = append(on, d)
		}
	}
	return on
}

// weigh places ranks in a domain and says what that costs.
func (b *board) weigh(members, mates, domain []int) way {
	w := way{at: b.tidy(members, b.first(members, domain)), first: len(b.order), room: math.MaxInt64}
	used := 0
	for i, d := range w.at {
		if d < 0 {
			w.cost[0]++
			continue
		}
		before := w.at[:i]
		if !slices.Contains(before, d) && b.held[d] == 0 {
			used++
		}
		w.cost[1] = max(w.cost[1], b.held[d]+1+count(before, d))
		if b.copies[copyAt{b.ranks[members[i]].Replica, b.site[d]}] == 0 &&
			!slices.ContainsFunc(before, func(o int) bool { return o >= 0 && b.site[o] == b.site[d] }) {
			w.cost[3]++
		}
		w.cost[4] = max(w.cost[4], b.crowd[b.site[d]])
		w.room = min(w.room, b.rooms(d, members[i]))
		w.first = min(w.first, b.place[d])
	}
	w.cost[2] = b.distance(append(where(w.at, func(d int) bool { return d >= 0 }), mates...))
	for _, d := range domain {
		if b.held[d] == 0 {
			w.cost[5]++
		}
	}
	w.cost[5] -= used
	return w
}

func count(in []int, d int) (n int) {
	for _, o := range in {
		if o == d {
			n++
		}
	}
	return n
}

// rooms says how many ranks of this size a device has room for.
func (b *board) rooms(d, rank int) int64 { return b.devices[d].Free / max(b.ranks[rank].Bytes, 1) }

// first gives the ranks, in turn, the device of a domain with the fewest
// ranks, then the most room, then the first in order, without taking the room.
func (b *board) first(members, domain []int) []int {
	free, more, held := make([]int64, len(domain)), make([]int, len(domain)), make([]int, len(domain))
	at := make([]int, len(members))
	for i, rank := range members {
		bytes, best := b.ranks[rank].Bytes, -1
		for k, d := range domain {
			dev := &b.devices[d]
			if dev.Ranks >= 0 && more[k] >= dev.Ranks || free[k]+bytes > dev.Free || !b.allows(d, b.ranks[rank].Pin) {
				continue
			}
			if best < 0 || cmp.Or(cmp.Compare(b.held[d]+held[k], b.held[domain[best]]+held[best]),
				cmp.Compare((b.devices[domain[best]].Free-free[best])/max(bytes, 1), (dev.Free-free[k])/max(bytes, 1))) < 0 {
				best = k
			}
		}
		at[i] = -1
		if best >= 0 {
			at[i] = domain[best]
			free[best] += bytes
			more[best]++
			held[best]++
		}
	}
	return at
}

// tidy puts ranks that lie on one device each, all of one worker, in the order
// of the devices, where they fit so.
func (b *board) tidy(members, at []int) []int {
	if slices.Contains(at, -1) {
		return at
	}
	sorted := slices.Clone(at)
	slices.SortFunc(sorted, func(x, y int) int { return cmp.Compare(b.place[x], b.place[y]) })
	for i, d := range sorted {
		if i > 0 && d == sorted[i-1] || b.devices[d].Worker != b.devices[sorted[0]].Worker || !b.takes(d, members[i]) {
			return at
		}
	}
	return sorted
}
