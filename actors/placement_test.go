package actors

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
)

// equip gives a worker other devices, before anything was asked of it: the
// worker itself knows of them, and the coordinator.
func (w *world) equip(i int, devices ...messages.Device) {
	w.members[i].Devices = devices
	w.workers[i].state.Member.Devices = devices
	w.co.MemberUp(w.members[i])
}

// arenaBytes is the size of the arena of a load of testIndex in one rank.
const arenaBytes = 20 * 65536

// TestTwoJobsShareNoRoom: of jobs that are planned at once no more are begun
// than there is room for, and what has ended gives its room back.
func TestTwoJobsShareNoRoom(t *testing.T) {
	w := newWorld(t, 1)
	w.equip(0, messages.Device{ID: "cpu", Free: 3*arenaBytes + arenaBytes/2})
	gate := make(chan struct{})
	w.nodes[0].load = func(ctx context.Context, _ job.Ref) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	const n = 8
	for i := range n {
		if _, err := w.co.Load(t.Context(), request(fmt.Sprint("j", i))); err != nil {
			t.Fatal(err)
		}
	}
	state := func() (loading, refused []string) {
		for i := range n {
			j, err := w.co.Status(t.Context(), messages.JobRequest{Job: fmt.Sprint("j", i)})
			switch {
			case err != nil:
				t.Fatal(err)
			case j.State == messages.StateLoading:
				loading = append(loading, j.Job)
			case j.State == messages.StateFailed && j.Class == recovery.OutOfCapacity && strings.Contains(j.Why, "no room for 1 of 1 ranks"):
				refused = append(refused, j.Job)
			}
		}
		return loading, refused
	}
	w.until("3 jobs load and 5 are refused", func() bool {
		loading, refused := state()
		return len(loading) == 3 && len(refused) == n-3
	})
	// One is cancelled, the others end ready: their room is taken, its is not.
	loading, _ := state()
	if _, err := w.co.Cancel(t.Context(), messages.JobRequest{Job: loading[0]}); err != nil {
		t.Fatal(err)
	}
	w.wait(loading[0])
	close(gate)
	for _, id := range loading[1:] {
		if j := w.wait(id); j.State != messages.StateReady {
			t.Errorf("%s: %s", id, j.Why)
		}
	}
	if j := w.load(request("next")); j.State != messages.StateReady {
		t.Errorf("in the room of the one that was cancelled: %s", j.Why)
	}
	if j := w.load(request("last")); j.Class != recovery.OutOfCapacity {
		t.Errorf("three models are resident, and a fourth is %s: %s", j.State, j.Why)
	}
	if _, err := w.co.Unload(t.Context(), messages.ModelRequest{Name: "m-next"}); err != nil {
		t.Fatal(err)
	}
	if j := w.load(request("after")); j.State != messages.StateReady {
		t.Errorf("in the room of the one that was unloaded: %s", j.Why)
	}
}

// TestWorkerKeepsItsBudget: a worker refuses what is over its budget, whatever
// the coordinator believes.
func TestWorkerKeepsItsBudget(t *testing.T) {
	w := newWorld(t, 1)
	w.equip(0, messages.Device{ID: "cpu", Free: 2*arenaBytes - 1})
	w.members[0].Devices = []messages.Device{{ID: "cpu", Free: 1 << 40}}
	w.co.MemberUp(w.members[0])
	if j := w.load(request("a")); j.State != messages.StateReady {
		t.Fatal(j.Why)
	}
	if j := w.load(request("b")); j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, "bytes left on cpu") {
		t.Errorf("%s: %s", j.State, j.Why)
	}
}

// gpus are four GPUs on two NUMA nodes.
func gpus() (all []messages.Device) {
	for i := range 4 {
		all = append(all, messages.Device{ID: fmt.Sprint("cuda:", i), Free: 4 * arenaBytes, NUMA: i / 2})
	}
	return all
}

// TestPlacement: topology and pins reach the policy from the workers' leases
// and the request.
func TestPlacement(t *testing.T) {
	w := newWorld(t, 2)
	linked := gpus()
	for i := range linked {
		linked[i].NVLinkPeers = []string{"cuda:0", "cuda:3"} // of which only these two reach each other
	}
	w.equip(0, gpus()...)
	w.equip(1, linked...)
	for _, c := range []struct {
		name   string
		device string
		pins   []placement.Pin
		want   []string
	}{
		{"NVLink first", "auto", nil, []string{"w1/cuda:0", "w1/cuda:3"}},
		{"devices that were asked for", "cuda:1,cuda:2", nil, []string{"w0/cuda:1", "w0/cuda:2"}},
		{"any GPU", "cuda", []placement.Pin{{Rank: 0, Worker: "w0"}, {Rank: 1, Worker: "w0"}}, []string{"w0/cuda:0", "w0/cuda:1"}},
		{"pinned", "auto", []placement.Pin{{Rank: 1, Worker: "w0", Device: "cuda:2"}}, []string{"w0/cuda:3", "w0/cuda:2"}},
	} {
		q := request(strings.ReplaceAll(c.name, " ", "-"))
		q.Options.Layout.TP, q.Device, q.Placement, q.Once = 2, c.device, c.pins, true
		j := w.load(q)
		var got []string
		for _, r := range j.Ranks {
			got = append(got, r.Worker+"/"+r.Device)
		}
		if j.State != messages.StateReady || !slices.Equal(got, c.want) {
			t.Errorf("%s: %s %q, want %q; %s", c.name, j.State, got, c.want, j.Why)
		}
	}
	q := request("nowhere")
	q.Placement = []placement.Pin{{Rank: 0, Worker: "w7"}}
	if j := w.load(q); j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, "rank 0 is to be on worker w7, which is not there") {
		t.Errorf("%s: %s", j.State, j.Why)
	}
	q.Job, q.Placement[0].Rank = "too-many", 1
	if _, err := w.co.Load(t.Context(), q); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a pin of a rank that there is not: %v", err)
	}
}

// TestModelRequires: what a model asks for counts as what the request asks
// for, and keeps a load from starting.
func TestModelRequires(t *testing.T) {
	w := newWorld(t, 3)
	w.needs = require.Requirements{CPU: []string{"unit1"}} // w1's
	q := request("a")
	if j := w.load(q); j.State != messages.StateReady || j.Ranks[0].Worker != "w1" {
		t.Errorf("%s at %+v: %s", j.State, j.Ranks, j.Why)
	}
	q = request("b")
	q.Require.CPU = []string{"unit2"}
	j := w.load(q)
	if j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, "the CPU has no unit") {
		t.Errorf("no worker has both: %s, %s", j.State, j.Why)
	}
	q = request("c")
	q.Require.Device, w.needs = "cpu", require.Requirements{Device: "cuda"}
	if j := w.load(q); j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, "cuda device too") {
		t.Errorf("a device of two kinds: %s, %s", j.State, j.Why)
	}
	for _, n := range w.nodes[2:] {
		if n.tries(0) != 0 {
			t.Error("a worker that lacks what is required has read something")
		}
	}
}
