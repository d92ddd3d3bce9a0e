package placement

import (
	"cmp"
	"slices"
)

// Rank is a rank that looks for a place, or has one.
type Rank struct {
	Group   int   // ranks of one tensor-parallel group exchange most
	Replica int   // whole copy of the model that it belongs to
	Bytes   int64 // of its arena
	Home    int   // index of the device that it lies on; -1: it looks for one
	Pin     *Pin  // where the user wants it; nil: anywhere
}

// Device is a device of a worker with what is left of its room.
type Device struct {
	Worker string
	ID     string   // "cpu", "cuda:0"
	Free   int64    // bytes
	Ranks  int      // that it may still take; negative: no limit
	NUMA   int      // node of its host that it is attached to; -1: unknown
	Peers  []string // devices of the worker that it reaches by NVLink
}

// CPU is the id of a worker's host memory.
const CPU = "cpu"

// Assign finds a device for each rank: its index, or -1 where none has room.
// Ranks that have a home keep it. No device gets more than it takes.
//
// Groups are placed one after the other. Of the ways to place one, that is
// chosen which leaves fewest ranks out; then has fewest ranks on one device;
// then is closest together (all over NVLink on one NUMA node, over NVLink, on
// one NUMA node, at one worker, at few workers); then keeps to workers that
// hold the group's replica, or else to those with fewest ranks; then breaks up
// least of what is close together; then has most room. Ranks that are pinned
// come first. Host memory is used where there is no other device, or a pin
// names it. Where this leaves a rank out, ranks are packed tightly instead if
// that places more.
func Assign(ranks []Rank, devices []Device) []int {
	even := newBoard(ranks, devices)
	even.spread()
	if !slices.Contains(even.found, -1) {
		return even.found
	}
	tight := newBoard(ranks, devices)
	tight.pack()
	if tight.placed() > even.placed() {
		return tight.found
	}
	return even.found
}

// board is the state of an assignment.
type board struct {
	ranks   []Rank
	devices []Device // Free and Ranks are used up
	order   []int    // devices by worker and number
	place   []int    // of each device in order
	site    []int    // number of each device's worker
	held    []int    // ranks on each device
	crowd   []int    // ranks at each worker
	copies  map[copyAt]int
	hosts   bool  // there is nothing but host memory
	found   []int // device of each rank
}

// copyAt names what a worker holds of a replica.
type copyAt struct{ replica, site int }

func newBoard(ranks []Rank, devices []Device) *board {
	n := len(devices)
	b := &board{ranks: ranks, devices: slices.Clone(devices), order: make([]int, n), place: make([]int, n), site: make([]int, n),
		held: make([]int, n), copies: map[copyAt]int{}, hosts: true, found: make([]int, len(ranks))}
	for i, d := range devices {
		b.order[i] = i
		b.hosts = b.hosts && d.ID == CPU
	}
	slices.SortFunc(b.order, func(x, y int) int {
		return cmp.Or(cmp.Compare(devices[x].Worker, devices[y].Worker), compareIDs(devices[x].ID, devices[y].ID), cmp.Compare(x, y))
	})
	for place, d := range b.order {
		b.place[d] = place
		if place == 0 || devices[d].Worker != devices[b.order[place-1]].Worker {
			b.crowd = append(b.crowd, 0)
		}
		b.site[d] = len(b.crowd) - 1
	}
	for i, r := range ranks {
		if b.found[i] = r.Home; r.Home >= 0 {
			b.count(i, r.Home)
		}
	}
	return b
}

// compareIDs puts cuda:10 behind cuda:9.
func compareIDs(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// count notes that a device holds a rank.
func (b *board) count(rank, d int) {
	b.held[d]++
	b.crowd[b.site[d]]++
	b.copies[copyAt{b.ranks[rank].Replica, b.site[d]}]++
}

// put gives a rank a device, and takes the room.
func (b *board) put(rank, d int) {
	b.found[rank] = d
	b.count(rank, d)
	b.devices[d].Free -= b.ranks[rank].Bytes
	if b.devices[d].Ranks > 0 {
		b.devices[d].Ranks--
	}
}

// takes reports whether a device has room for a rank that may lie there.
func (b *board) takes(d, rank int) bool {
	r, dev := &b.ranks[rank], &b.devices[d]
	return dev.Ranks != 0 && r.Bytes <= dev.Free && b.allows(d, r.Pin)
}

// allows reports whether a rank with a pin may lie on a device at all.
func (b *board) allows(d int, p *Pin) bool {
	if p == nil {
		return b.hosts || b.devices[d].ID != CPU
	}
	return allows(b.devices, d, p)
}

func allows(devices []Device, d int, p *Pin) bool {
	asked := func(o Device) bool { return p == nil || p.matches(&o) }
	if p != nil && p.Device != "" || devices[d].ID != CPU {
		return asked(devices[d])
	}
	return asked(devices[d]) && !slices.ContainsFunc(devices, func(o Device) bool { return o.ID != CPU && asked(o) })
}

// Allowed returns the devices that a rank with a pin, nil for none, may lie on,
// whatever room they have.
func Allowed(devices []Device, p *Pin) []Device {
	var out []Device
	for i := range devices {
		if allows(devices, i, p) {
			out = append(out, devices[i])
		}
	}
	return out
}

// placed counts the ranks that have a device.
func (b *board) placed() int {
	n := 0
	for _, d := range b.found {
		if d >= 0 {
			n++
		}
	}
	return n
}

// spread places the ranks that are pinned to a device, and then group by
// group, those with pins first.
func (b *board) spread() {
	of := map[int]int{}
	var groups [][]int // the homeless, in the order of their groups' first ranks
	for i, r := range b.ranks {
		if r.Home >= 0 {
			continue
		}
		if r.Pin != nil && r.Pin.Device != "" {
			if d := b.first([]int{i}, b.order)[0]; d >= 0 {
				b.put(i, d)
			}
			continue
		}
		g, ok := of[r.Group]
		if !ok {
			g, of[r.Group] = len(groups), len(groups)
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	slices.SortStableFunc(groups, func(x, y []int) int { return cmp.Compare(b.pinned(y), b.pinned(x)) })
	domains := b.domains()
	for _, members := range groups {
		for i, d := range b.best(members, domains) {
			if d >= 0 {
				b.put(members[i], d)
			}
		}
	}
}

// pinned counts the ranks with pins.
func (b *board) pinned(ranks []int) (n int) {
	for _, i := range ranks {
		if b.ranks[i].Pin != nil {
			n++
		}
	}
	return n
}

// pack gives ranks, pinned ones and then the largest first, to the device with
// the least room that takes them (best fit decreasing).
func (b *board) pack() {
	var left []int
	for i, r := range b.ranks {
		if r.Home < 0 {
			left = append(left, i)
		}
	}
	slices.SortStableFunc(left, func(x, y int) int {
		return cmp.Or(cmp.Compare(b.pinned([]int{y}), b.pinned([]int{x})), cmp.Compare(b.ranks[y].Bytes, b.ranks[x].Bytes))
	})
	for _, i := range left {
		best := -1
		for _, d := range b.order {
			if b.takes(d, i) && (best < 0 || b.devices[d].Free < b.devices[best].Free) {
				best = d
			}
		}
		if best >= 0 {
			b.put(i, best)
		}
	}
}
