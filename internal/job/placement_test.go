package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// gpus is a worker with two GPUs on each of two NUMA nodes.
func gpus(name string, room int64) WorkerUp {
	up := WorkerUp{Worker: Worker{name, 1}, Window: 300}
	for i := range 4 {
		up.Rooms = append(up.Rooms, Room{Device: fmt.Sprint("cuda:", i), Bytes: room, NUMA: i / 2})
	}
	return up
}

// shaped makes a plan's ranks those of a tp × dp layout.
func shaped(p *shard.Plan, tp int) *shard.Plan {
	for i := range p.Ranks {
		p.Ranks[i].TP, p.Ranks[i].DP = i%tp, i/tp
	}
	return p
}

// placesOf says where commands place ranks: "0 a/cuda:1".
func placesOf(commands []Command) (s []string) {
	for _, c := range all[Place](commands) {
		s = append(s, fmt.Sprintf("%d %s/%s", c.Hold.Rank, c.Hold.Worker.Name, c.Hold.Device))
	}
	return s
}

// TestPlacementKnowsTheLayout: what the policy is told of ranks and devices is
// what the plan and the workers say.
func TestPlacementKnowsTheLayout(t *testing.T) {
	plan := shaped(planOf(4, 4, inTurn(4)), 2)
	j := New(plan, Options{Patience: time.Second})
	got := placesOf(j.Start(t0, []WorkerUp{gpus("a", 1000), gpus("b", 1000)}))
	if want := []string{"0 a/cuda:0", "1 a/cuda:1", "2 b/cuda:0", "3 b/cuda:1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// The copy at b is lost: it goes to the other NUMA node of a.
	got = placesOf(j.Step(t0, WorkerLost{Worker: Worker{"b", 1}}))
	if want := []string{"2 a/cuda:2", "3 a/cuda:3"}; !slices.Equal(got, want) {
		t.Errorf("after the loss: %q, want %q", got, want)
	}
}

func TestPins(t *testing.T) {
	plan := shaped(planOf(4, 4, inTurn(4)), 2)
	pins := []placement.Pin{{Rank: 3, Worker: "b"}, {Rank: 0, Worker: "a", Device: "cuda:3"}}
	j := New(plan, Options{Pins: pins, Patience: time.Second})
	got := placesOf(j.Start(t0, []WorkerUp{gpus("a", 1000), gpus("b", 1000)}))
	if want := []string{"0 a/cuda:3", "1 a/cuda:2", "2 b/cuda:0", "3 b/cuda:1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A pinned rank moves nowhere else: the job waits for its worker.
	lost := j.Step(t0, WorkerLost{Worker: Worker{"a", 1}})
	if got := placesOf(lost); !slices.Equal(got, []string{"1 b/cuda:2"}) {
		t.Errorf("after the loss: %q", got)
	}
	ended := all[End](j.Step(t0.Add(2*time.Second), Tick{}))
	if len(ended) != 1 || !strings.Contains(ended[0].Err.Error(), "rank 0 is to be on cuda:3 of worker a, which is not there") {
		t.Errorf("it ended with %v", ended)
	}
}

func TestNoRoom(t *testing.T) {
	mixed := gpus("a", 900)
	mixed.Rooms = append(mixed.Rooms, Room{Device: "cpu", Bytes: 1 << 30})
	full := cpu("a", 1, 5000)
	full.Rooms[0].Ranks = 1
	for _, c := range []struct {
		ups  []WorkerUp
		pins []placement.Pin
		says string
	}{
		{nil, nil, "no worker has joined with a device for 2 ranks"},
		{[]WorkerUp{cpu("a", 1, 1500)}, nil, "no room for 1 of 2 ranks (1000 B of 1.95 KiB (2000 B)); rank 1 alone needs 1000 B; 1.46 KiB (1500 B) is free on 1 devices"},
		{[]WorkerUp{full}, nil, "no room for 1 of 2 ranks"},
		{[]WorkerUp{mixed}, nil, "3.52 KiB (3600 B) is free on 4 devices, at most 900 B on one, beside what stays free for other uses: 5 % of a GPU"}, // host memory is no place beside GPUs
		{[]WorkerUp{gpus("a", 900)}, []placement.Pin{{Rank: 1, Device: "cuda:9"}}, "no room for 2 of 2"},
		{[]WorkerUp{gpus("a", 1000)}, []placement.Pin{{Rank: 1, Device: "cuda:9"}}, "rank 1 is to be on cuda:9, which is not there"},
		{[]WorkerUp{gpus("a", 1000)}, []placement.Pin{{Rank: 0, Device: "cuda:1"}, {Rank: 1, Device: "cuda:1"}}, "rank 1 is to be on cuda:1 and needs 1000 B; 1000 B is free there"},
	} {
		ended := all[End](New(planOf(2, 2, inTurn(2)), Options{Pins: c.pins}).Start(t0, c.ups))
		if len(ended) != 1 || recovery.ClassOf(ended[0].Err) != recovery.OutOfCapacity || !strings.Contains(ended[0].Err.Error(), c.says) {
			t.Errorf("%v, want %q", ended, c.says)
		}
	}
	ended := all[End](New(planOf(2, 2, inTurn(2)), Options{Pins: []placement.Pin{{Rank: 2, Device: "cpu"}}}).Start(t0, []WorkerUp{cpu("a", 1, 5000)}))
	if len(ended) != 1 || recovery.ClassOf(ended[0].Err) != recovery.Usage {
		t.Errorf("a pin of a rank that there is not: %v", ended)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.50 KiB (1536 B)", 1 << 62: "4.00 EiB (4611686018427387904 B)"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
