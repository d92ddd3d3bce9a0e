package job

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

func holdLoads(c Command) bool { _, is := c.(Load); return is }

// begin places everything and returns the loads that are under way.
func begin(t *testing.T, j *Job, workers ...WorkerUp) []Load {
	t.Helper()
	loads := all[Load](obey(j, t0, j.Start(t0, workers), holdLoads))
	if j.over() {
		t.Fatalf("ended at once: %v", j.Err())
	}
	return loads
}

func TestStartRefusesWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		name    string
		workers []WorkerUp
		want    string
	}{
		{"nobody", nil, "no worker has joined"},
		{"too small", []WorkerUp{cpu("a", 1, 1999)}, "no room for 1 of 2 ranks"},
		{"too few ranks", []WorkerUp{{Worker: Worker{"a", 1}, Rooms: []Room{{Device: "cpu", Bytes: 9000, Ranks: 1}}}}, "no room for 1 of 2 ranks"},
	} {
		j := New(planOf(2, 4, everyone(2)), Options{})
		cmds := j.Start(t0, c.workers)
		ends := all[End](cmds)
		if len(ends) != 1 || ends[0].State != Failed || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity || !strings.Contains(ends[0].Err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, cmds, c.want)
		}
		if len(all[Place](cmds)) != 0 {
			t.Errorf("%s: asked for an arena all the same: %v", c.name, cmds)
		}
	}
}

// TestWaitsToStart: a job that may wait asks for nothing until all of it fits,
// and tells what is missing when its time is over.
func TestWaitsToStart(t *testing.T) {
	for _, late := range []bool{false, true} {
		j := New(planOf(2, 4, everyone(2)), Options{Wait: time.Minute})
		cmds := j.Start(t0, []WorkerUp{cpu("a", 1, 1500)})
		if len(all[Place](cmds))+len(all[End](cmds)) != 0 || j.Status() != Waiting {
			t.Fatalf("%s: %v", j.Status(), cmds)
		}
		if wake := all[Wake](cmds); len(wake) != 1 || !wake[0].At.Equal(t0.Add(time.Minute)) {
			t.Errorf("wakes %v", wake)
		}
		if late {
			ends := all[End](j.Step(t0.Add(time.Minute), Tick{}))
			if len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity || !strings.Contains(ends[0].Err.Error(), "no room for 1 of 2 ranks") {
				t.Errorf("ends %v", ends)
			}
			continue
		}
		seen := obey(j, t0, j.Step(t0, WorkerUp{Worker: Worker{"b", 1}, Rooms: []Room{{Device: "cpu", Bytes: 1000}}, Window: 300}), nil)
		if j.Status() != Ready || len(all[Load](seen)) != 4 {
			t.Errorf("%s after %v", j.Status(), seen)
		}
	}
}

func TestAbortFailsAndTakesEverythingBack(t *testing.T) {
	j := New(planOf(2, 4, everyone(2)), Options{})
	begin(t, j, cpu("a", 1, 2000))
	cmds := j.Step(t0, Abort{recovery.Errorf(recovery.Timeout, "too late")})
	ends := all[End](cmds)
	if len(ends) != 1 || ends[0].State != Failed || recovery.ClassOf(ends[0].Err) != recovery.Timeout || len(all[Free](cmds)) != 2 || len(all[Revoke](cmds)) == 0 {
		t.Errorf("%v", cmds)
	}
}

func TestBrokenPlanFails(t *testing.T) {
	p := planOf(1, 1, everyone(1))
	p.Chunks[0].Pieces[0].Rank = 7
	j := New(p, Options{})
	if ends := all[End](j.Start(t0, []WorkerUp{cpu("a", 1, 2000)})); len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.Internal {
		t.Errorf("ends %v", ends)
	}
}

func TestLostWorkerCostsOnlyItsPieces(t *testing.T) {
	j := New(planOf(2, 6, everyone(2)), Options{})
	obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 1000), cpu("b", 1, 1000), cpu("c", 1, 1000)}),
		func(c Command) bool { s, is := c.(Seal); return is && s.Hold.Rank == 1 })
	if c := j.Counters(); c.ChunksDone != 6 || c.BytesPlaced != 600 {
		t.Fatalf("counters %+v", c)
	}
	lost := j.Ranks()[1].Hold
	cmds := j.Step(t0, WorkerLost{lost.Worker, "lease ended"})
	if c := j.Counters(); c.ChunksDone != 0 || c.BytesPlaced != 300 || c.BytesRead != 0 {
		t.Errorf("after the loss %+v", c)
	}
	if got := kinds(cmds); !slices.Equal(got, []string{"worker_lost/b/-1/-1", "rank_moved/c/1/-1"}) {
		t.Errorf("events %v", got)
	}
	seen := obey(j, t0, cmds, nil)
	again := all[Load](seen)
	if len(again) != 6 || j.Status() != Ready {
		t.Fatalf("%d loads, %s", len(again), j.Status())
	}
	for _, l := range again {
		if len(l.Dests) != 1 || l.Dests[0].Rank != 1 || l.Dests[0].Generation != 2 || l.Ref.Attempt != 2 {
			t.Errorf("read again for %v", l)
		}
	}
}

func TestSealedRankMovesToo(t *testing.T) {
	j := New(planOf(2, 2, inTurn(2)), Options{})
	seen := obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 2000)}),
		func(c Command) bool { s, is := c.(Seal); return is && s.Hold.Rank == 0 })
	if !j.Ranks()[1].Sealed || j.Status() != Sealing {
		t.Fatalf("rank 1 should be sealed: %v", seen)
	}
	cmds := j.Step(t0, WorkerLost{Worker{"b", 1}, ""})
	if j.Counters().RanksValidated != 0 {
		t.Error("the lost rank still counts as validated")
	}
	obey(j, t0, append(cmds, j.Step(t0, Sealed{Hold: j.Ranks()[0].Hold})...), nil)
	if j.Status() != Ready || j.Ranks()[1].Hold.Worker.Name != "a" {
		t.Errorf("%s, ranks %v", j.Status(), j.Ranks())
	}
}

func TestWaitsForRoomThenFails(t *testing.T) {
	j := New(planOf(2, 2, everyone(2)), Options{Patience: time.Minute})
	begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	j.Step(t0, WorkerLost{Worker{"b", 1}, "killed"})
	if j.Status() != Waiting {
		t.Fatalf("status %s", j.Status())
	}
	if ends := all[End](j.Step(t0.Add(59*time.Second), Tick{})); len(ends) != 0 {
		t.Fatalf("gave up early: %v", ends)
	}
	cmds := j.Step(t0.Add(time.Minute), Tick{})
	ends := all[End](cmds)
	if len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity || !strings.Contains(ends[0].Err.Error(), "rank 1 alone needs 1000 B") {
		t.Errorf("ends %v", ends)
	}
	if len(all[Free](cmds)) != 1 {
		t.Errorf("the other arena was not freed: %v", cmds)
	}
}

func TestNewWorkerEndsTheWait(t *testing.T) {
	j := New(planOf(2, 2, everyone(2)), Options{})
	begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	j.Step(t0, WorkerLost{Worker{"b", 1}, "killed"})
	cmds := j.Step(t0, cpu("b", 2, 1000))
	if got := kinds(cmds); !slices.Equal(got, []string{"worker_joined/b/-1/-1", "rank_moved/b/1/-1"}) {
		t.Errorf("events %v", got)
	}
	if p := all[Place](cmds); len(p) != 1 || p[0].Hold.Worker.Incarnation != 2 || p[0].Hold.Generation != 2 {
		t.Errorf("places %v", p)
	}
}

func TestRestartIsLossAndJoin(t *testing.T) {
	j := New(planOf(1, 2, everyone(1)), Options{})
	loads := begin(t, j, cpu("a", 1, 1000))
	cmds := j.Step(t0, cpu("a", 2, 1000))
	if got := kinds(cmds); !slices.Equal(got, []string{"worker_lost/a/-1/-1", "worker_joined/a/-1/-1", "rank_moved/a/0/-1"}) {
		t.Errorf("events %v", got)
	}
	for _, stale := range []Event{done(loads[0]), Placed{loads[0].Dests[0]}, Sealed{Hold: loads[0].Dests[0]},
		WorkerLost{Worker{"a", 1}, ""}, WorkerSuspect{Worker{"a", 1}, ""}, cpu("a", 1, 5000)} {
		before := j.Counters()
		j.Step(t0, stale)
		if j.Counters() != before || j.Ranks()[0].Hold.Worker.Incarnation != 2 {
			t.Errorf("%T of the old life changed something", stale)
		}
	}
}

func TestSuspectWorker(t *testing.T) {
	// Chunk c goes to rank c%2; b reads its own and then a's.
	j := New(planOf(2, 8, inTurn(2)), Options{})
	loads := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000), cpu("c", 1, 0))
	var onB int
	for _, l := range loads {
		if l.Ref.Worker.Name == "b" {
			onB++
		}
	}
	cmds := j.Step(t0, WorkerSuspect{Worker{"b", 1}, "reset"})
	if r := all[Revoke](cmds); len(r) != onB || onB == 0 {
		t.Errorf("%d attempts of b revoked, want %d", len(r), onB)
	}
	for _, l := range all[Load](cmds) {
		if l.Ref.Worker.Name == "b" || l.Dests[0].Worker.Name == "b" {
			t.Errorf("dispatched while b is suspect: %v", l)
		}
	}
	if got := kinds(cmds); len(got) != 0 {
		t.Errorf("a suspicion emits %v", got)
	}
	cmds = obey(j, t0, append(slices.DeleteFunc(slices.Clone(toCommands(loads)), func(c Command) bool { return c.(Load).Ref.Worker.Name == "b" }), cmds...), nil)
	if j.Status() != Loading {
		t.Fatalf("%s while b's chunks wait: %v", j.Status(), cmds)
	}
	seen := obey(j, t0, j.Step(t0, cpu("b", 1, 1000)), nil)
	if j.Status() != Ready {
		t.Errorf("%s after b came back: %v", j.Status(), seen)
	}
	if all[Place](seen) != nil {
		t.Error("its arena was asked for again, although it was placed")
	}
}

func toCommands(loads []Load) (cmds []Command) {
	for _, l := range loads {
		cmds = append(cmds, l)
	}
	return cmds
}

func TestSuspectForTooLongIsLost(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{Patience: time.Minute})
	begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	j.Step(t0, WorkerSuspect{Worker{"a", 1}, "reset"})
	if got := kinds(j.Step(t0.Add(time.Minute), Tick{})); !slices.Equal(got, []string{"worker_lost/a/-1/-1", "rank_moved/b/0/-1"}) {
		t.Errorf("events %v", got)
	}
}

func TestFailFastEndsWithAWorker(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{Strategy: recovery.FailFast()})
	begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	if ends := all[End](j.Step(t0, WorkerLost{Worker{"a", 1}, "killed"})); len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.WorkerLost {
		t.Errorf("ends %v", ends)
	}
}

func TestStrayAttemptsAreRevokedAgain(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	l := begin(t, j, cpu("a", 1, 1000))[0]
	j.Step(t0, WorkerSuspect{l.Ref.Worker, ""})
	j.Step(t0, cpu("a", 1, 1000))
	for _, e := range []Event{Accepted{l.Ref}, Holding{Worker: l.Ref.Worker, Refs: []Ref{l.Ref}}} {
		if r := all[Revoke](j.Step(t0, e)); len(r) != 1 || r[0].Ref != l.Ref {
			t.Errorf("%T of a revoked attempt: %v", e, r)
		}
	}
}

func TestJoinIsAnEvent(t *testing.T) {
	j := New(planOf(1, 9, everyone(1)), Options{})
	begin(t, j, cpu("a", 1, 1000))
	cmds := j.Step(t0, cpu("b", 1, 0))
	if got := kinds(cmds); !slices.Equal(got, []string{string(progress.WorkerJoined) + "/b/-1/-1"}) {
		t.Errorf("events %v", got)
	}
	if len(all[Load](cmds)) != 3 {
		t.Errorf("a newcomer reads nothing: %v", cmds)
	}
}

// What a worker takes from another's queue must be sent there: it takes no
// more than it leaves, but one chunk at least.
func TestANewcomerTakesNoMoreThanItLeaves(t *testing.T) {
	for chunks, want := range map[int]int{3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 9: 3, 20: 3} { // 3 are a's at once
		j := New(planOf(1, chunks, everyone(1)), Options{})
		begin(t, j, cpu("a", 1, 1000))
		if got := len(all[Load](j.Step(t0, cpu("b", 1, 0)))); got != want {
			t.Errorf("%d chunks: takes %d of the %d that are queued, want %d", chunks, got, chunks-3, want)
		}
	}
}
