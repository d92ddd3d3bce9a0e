package placement

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// TestPictures draws where ranks go. In testdata, `host` adds a worker: so many
// GPUs, on so many NUMA nodes, linked all, in quads, in pairs, or not; or host
// memory only. `less` takes memory from a device. `place` draws a layout of
// ranks of one size, with pins such as 0=a/cuda:3; `lost` loses a worker and
// draws where its ranks move.
func TestPictures(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s scene
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "new":
				s = scene{}
			case "host":
				s.addHost(t, d)
			case "less":
				var worker, device string
				var gib int64
				d.ScanArgs(t, "worker", &worker)
				d.ScanArgs(t, "device", &device)
				d.ScanArgs(t, "gib", &gib)
				for i := range s.devices {
					if s.devices[i].Worker == worker && s.devices[i].ID == device {
						s.devices[i].Free -= gib
					}
				}
			case "place":
				s.addRanks(t, d)
				return s.draw()
			case "lost":
				var worker string
				d.ScanArgs(t, "worker", &worker)
				s.lose(worker)
				return s.draw()
			default:
				d.Fatalf(t, "unknown command")
			}
			return ""
		})
	})
}

// scene is what TestPictures draws. Sizes are in GiB.
type scene struct {
	devices []Device
	ranks   []Rank
	names   []string // of the ranks
	found   []int
}

func option[T any](t *testing.T, d *datadriven.TestData, name string, def T) T {
	if d.HasArg(name) {
		d.ScanArgs(t, name, &def)
	}
	return def
}

func (s *scene) addHost(t *testing.T, d *datadriven.TestData) {
	name, gpus, nodes := option(t, d, "name", "a"), option(t, d, "gpus", 0), option(t, d, "numa", 1)
	free, links := option(t, d, "free", int64(75)), option(t, d, "links", "none")
	if gpus == 0 || d.HasArg("cpu") {
		s.devices = append(s.devices, Device{Worker: name, ID: CPU, Free: free, Ranks: option(t, d, "ranks", -1), NUMA: -1})
	}
	island := map[string]int{"all": gpus, "quads": 4, "pairs": 2, "none": 1}[links]
	for i := range gpus {
		dev := Device{Worker: name, ID: fmt.Sprint("cuda:", i), Free: free, Ranks: -1, NUMA: i / (gpus / nodes)}
		for p := range gpus {
			if p != i && p/island == i/island {
				dev.Peers = append(dev.Peers, fmt.Sprint("cuda:", p))
			}
		}
		s.devices = append(s.devices, dev)
	}
}

func (s *scene) addRanks(t *testing.T, d *datadriven.TestData) {
	tp, pp, dp, bytes := option(t, d, "tp", 1), option(t, d, "pp", 1), option(t, d, "dp", 1), option(t, d, "gib", int64(30))
	s.ranks, s.names = nil, nil
	for i := range dp * pp * tp {
		s.ranks = append(s.ranks, Rank{Group: i / tp, Replica: i / tp / pp, Bytes: bytes, Home: -1})
		s.names = append(s.names, fmt.Sprintf("dp%d pp%d tp%d", i/tp/pp, i/tp%pp, i%tp))
	}
	for _, a := range d.CmdArgs {
		rank, err := strconv.Atoi(a.Key)
		if err != nil {
			continue
		}
		worker, device, _ := strings.Cut(a.Vals[0], "/")
		s.ranks[rank].Pin = &Pin{Rank: rank, Worker: worker, Device: device}
	}
	s.found = Assign(s.ranks, s.devices)
}

// lose takes a worker's devices away and places its ranks anew.
func (s *scene) lose(worker string) {
	var left []Device
	to := map[int]int{}
	for i, d := range s.devices {
		if d.Worker != worker {
			to[i] = len(left)
			left = append(left, d)
		}
	}
	for i, d := range s.found {
		at, ok := to[d]
		if !ok {
			s.ranks[i].Home = -1
			continue
		}
		s.ranks[i].Home = at
		left[at].Free -= s.ranks[i].Bytes
	}
	s.devices = left
	s.found = Assign(s.ranks, left)
}

func (s *scene) draw() string {
	var out strings.Builder
	at, node := "", -2
	for i, d := range s.devices {
		if d.Worker != at {
			at, node = d.Worker, -2
			fmt.Fprintf(&out, "worker %s\n", d.Worker)
		}
		if d.NUMA != node && d.NUMA >= 0 {
			fmt.Fprintf(&out, "  NUMA node %d\n", d.NUMA)
		}
		node = d.NUMA
		var on []string
		for r, f := range s.found {
			if f == i {
				on = append(on, fmt.Sprintf("rank %d (%s)", r, s.names[r]))
			}
		}
		out.WriteString(strings.TrimRight(fmt.Sprintf("    %-7s %s", d.ID, strings.Join(on, ", ")), " ") + "\n")
	}
	for r, f := range s.found {
		if f < 0 {
			fmt.Fprintf(&out, "no room: rank %d (%s)\n", r, s.names[r])
		}
	}
	return out.String()
}

func TestAssign(t *testing.T) {
	spots := func(free ...int64) (s []Device) {
		for i, f := range free {
			s = append(s, Device{Worker: fmt.Sprintf("w%d", i), ID: "cpu", Free: f, Ranks: -1, NUMA: -1})
		}
		return s
	}
	for _, c := range []struct {
		name    string
		bytes   []int64 // of the ranks of one group
		devices []Device
		want    []int
	}{
		{"spread evenly", []int64{1, 1, 1, 1}, spots(9, 9), []int{0, 1, 0, 1}},
		{"most room first", []int64{1, 1, 1}, spots(5, 9), []int{1, 0, 1}},
		{"by name", []int64{1}, []Device{{Worker: "b", Free: 1, Ranks: -1}, {Worker: "a", Free: 1, Ranks: -1}}, []int{1}},
		{"uneven where it must", []int64{1, 1, 1}, spots(1, 9), []int{1, 0, 1}},
		{"packed where spreading fails", []int64{2, 2, 4}, spots(4, 4), []int{1, 1, 0}},
		{"at most so many ranks", []int64{1, 1, 1}, []Device{{Worker: "a", Free: 9, Ranks: 1}, {Worker: "b", Free: 9, Ranks: 1}}, []int{0, 1, -1}},
		{"the devices of one worker", []int64{4, 4}, []Device{{Worker: "a", ID: "cuda:0", Free: 5, Ranks: -1}, {Worker: "a", ID: "cuda:1", Free: 5, Ranks: -1}}, []int{0, 1}},
		{"nowhere", []int64{2}, spots(1, 1), []int{-1}},
		{"no devices", []int64{2, 0}, nil, []int{-1, -1}},
		{"none that is full, even for nothing", []int64{0}, []Device{{Worker: "a", ID: "cpu", Free: -1, Ranks: -1}}, []int{-1}},
	} {
		var ranks []Rank
		for _, b := range c.bytes {
			ranks = append(ranks, Rank{Bytes: b, Home: -1})
		}
		if got := Assign(ranks, c.devices); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// drawCase makes ranks and devices of any kind.
func drawCase(t *rapid.T) (ranks []Rank, devices []Device) {
	for i := range rapid.IntRange(0, 9).Draw(t, "devices") {
		d := Device{Worker: fmt.Sprint("w", i/4), ID: fmt.Sprint("cuda:", i%4), Free: rapid.Int64Range(-3, 20).Draw(t, "free"),
			Ranks: rapid.IntRange(-1, 3).Draw(t, "ranks"), NUMA: rapid.IntRange(-1, 1).Draw(t, "numa")}
		if rapid.IntRange(0, 3).Draw(t, "host") == 0 {
			d.ID = CPU
		}
		for p := range 4 {
			if rapid.Bool().Draw(t, "link") {
				d.Peers = append(d.Peers, fmt.Sprint("cuda:", p))
			}
		}
		devices = append(devices, d)
	}
	tp := rapid.IntRange(1, 4).Draw(t, "tp")
	for i := range rapid.IntRange(0, 12).Draw(t, "ranks") {
		r := Rank{Group: i / tp, Replica: i / tp / 2, Bytes: rapid.Int64Range(0, 10).Draw(t, "bytes"), Home: -1}
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind == 0 && len(devices) > 0:
			r.Home = rapid.IntRange(0, len(devices)-1).Draw(t, "home")
		case kind == 1:
			r.Pin = &Pin{Worker: rapid.SampledFrom([]string{"", "w0", "w1"}).Draw(t, "worker"), Device: rapid.SampledFrom([]string{"", "cpu", "cuda:0", "cuda:1"}).Draw(t, "device")}
		}
		ranks = append(ranks, r)
	}
	return ranks, devices
}

func TestAssignNeverOverCommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranks, devices := drawCase(t)
		before := slices.Clone(devices)
		found := Assign(ranks, devices)
		if !reflect.DeepEqual(devices, before) {
			t.Fatal("the devices were changed")
		}
		used, more := make([]int64, len(devices)), make([]int, len(devices))
		for i, d := range found {
			switch r := ranks[i]; {
			case r.Home >= 0 && d != r.Home:
				t.Fatalf("rank %d moved from %d to %d", i, r.Home, d)
			case r.Home < 0 && d >= 0:
				if r.Pin != nil && !r.Pin.matches(&devices[d]) {
					t.Fatalf("rank %d, pinned to %s, is on %+v", i, r.Pin, devices[d])
				}
				used[d] += r.Bytes
				more[d]++
			}
		}
		room := func(d int, bytes int64) bool {
			return bytes <= devices[d].Free-used[d] && (devices[d].Ranks < 0 || more[d] < devices[d].Ranks)
		}
		b := newBoard(ranks, devices)
		for d := range devices {
			if more[d] > 0 && (used[d] > devices[d].Free || devices[d].Ranks >= 0 && more[d] > devices[d].Ranks) {
				t.Fatalf("%+v got %d ranks of %d bytes", devices[d], more[d], used[d])
			}
			for i, f := range found {
				if f < 0 && b.allows(d, ranks[i].Pin) && room(d, ranks[i].Bytes) {
					t.Fatalf("rank %d has no place though %+v has room", i, devices[d])
				}
			}
		}
	})
}

// TestAssignIsTheSameInAnyOrder: what is decided depends on the devices, not
// on the order they are listed in.
func TestAssignIsTheSameInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranks, devices := drawCase(t)
		seen := map[string]bool{}
		for i := range devices { // as a worker's devices are: each once
			if id := devices[i].Worker + devices[i].ID; seen[id] {
				devices[i].ID = fmt.Sprint("cuda:", 10+i)
			}
			seen[devices[i].Worker+devices[i].ID] = true
		}
		perm := rapid.Permutation(indices(len(devices))).Draw(t, "order")
		mixed, to := make([]Device, len(devices)), make([]int, len(devices))
		for i, p := range perm {
			mixed[i], to[p] = devices[p], i
		}
		moved := slices.Clone(ranks)
		for i := range moved {
			if moved[i].Home >= 0 {
				moved[i].Home = to[moved[i].Home]
			}
		}
		first, second := Assign(ranks, devices), Assign(moved, mixed)
		for i, d := range first {
			if d >= 0 {
				d = to[d]
			}
			if d != second[i] {
				t.Fatalf("rank %d: device %d, and %d where they are listed as %v", i, d, second[i], perm)
			}
		}
	})
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestGroupsStayTogether: where some NUMA node or worker has a free device for
// each rank of a group, the first group is not spread wider.
func TestGroupsStayTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, per := rapid.IntRange(1, 6).Draw(t, "nodes"), rapid.IntRange(1, 4).Draw(t, "per node")
		var devices []Device
		free := make([]int, nodes)
		for n := range nodes {
			for i := range per {
				d := Device{Worker: fmt.Sprint("w", n/2), ID: fmt.Sprint("cuda:", n%2*per+i), Ranks: -1, NUMA: n % 2}
				if rapid.IntRange(0, 3).Draw(t, "full") > 0 {
					d.Free = rapid.Int64Range(10, 39).Draw(t, "free")
					free[n]++
				}
				devices = append(devices, d)
			}
		}
		tp := rapid.IntRange(1, per).Draw(t, "tp")
		if slices.Max(free) < tp {
			return
		}
		found := Assign(slices.Repeat([]Rank{{Bytes: 10, Home: -1}}, tp), devices)
		seen := map[int]bool{}
		for _, d := range found {
			if d/per != found[0]/per || seen[d] {
				t.Fatalf("%d ranks are on devices %v, %d a node", tp, found, per)
			}
			seen[d] = true
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	for _, c := range []struct{ hosts, gpus, tp int }{{1000, 0, 1}, {1000, 0, 8}, {128, 8, 8}} {
		b.Run(fmt.Sprintf("hosts=%d/gpus=%d/tp=%d", c.hosts, c.gpus, c.tp), func(b *testing.B) {
			var devices []Device
			for h := range c.hosts {
				for g := range max(c.gpus, 1) {
					d := Device{Worker: fmt.Sprint("w", h), ID: fmt.Sprint("cuda:", g), Free: 1 << 30, Ranks: -1, NUMA: g / 4}
					for p := range c.gpus {
						d.Peers = append(d.Peers, fmt.Sprint("cuda:", p))
					}
					devices = append(devices, d)
				}
			}
			var ranks []Rank
			for i := range len(devices) / c.tp * c.tp {
				ranks = append(ranks, Rank{Group: i / c.tp, Replica: i / c.tp, Bytes: 1 << 20, Home: -1})
			}
			for b.Loop() {
				if slices.Contains(Assign(ranks, devices), -1) {
					b.Fatal("a rank has no place")
				}
			}
		})
	}
}
