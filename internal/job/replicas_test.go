package job

import (
	"fmt"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// workers is n workers with room for one rank each.
func workers(n int) (ups []WorkerUp) {
	for i := range n {
		up := cpu(fmt.Sprint("w", i), 1, 1000)
		up.Window = 1 << 20
		ups = append(ups, up)
	}
	return ups
}

// Every chunk is read once; replicas get it from each other, and no worker
// sends a piece more often than the model is large.
func TestReplicasAreFilledInAChain(t *testing.T) {
	const dp, chunks = 4, 40
	j := New(copies(planOf(1, chunks, everyone(1)), dp), Options{})
	reads, gives := 0, map[string]int{}
	for _, l := range all[Load](obey(j, t0, j.Start(t0, workers(dp)), nil)) {
		if l.From == nil {
			reads++
			if len(l.Dests) != 1 || l.Dests[0].Worker != l.Ref.Worker {
				t.Errorf("%+v: a worker reads for another though both want it", l)
			}
		} else {
			gives[l.From.Worker.Name]++
		}
	}
	if j.Status() != Ready || reads != chunks || j.BytesRead() != 100*chunks {
		t.Errorf("%s after %d reads of %d bytes: %v", j.Status(), reads, j.BytesRead(), j.Err())
	}
	sum := 0
	for w, n := range gives {
		sum += n
		if n > chunks {
			t.Errorf("%s sends %d pieces of %d", w, n, chunks)
		}
	}
	if sum != chunks*(dp-1) {
		t.Errorf("%d copies, want %d", sum, chunks*(dp-1))
	}
}

// A piece goes from arena to arena: each sends it once.
func TestChainOfOnePiece(t *testing.T) {
	j := New(copies(planOf(1, 1, everyone(1)), 4), Options{})
	gave := map[int]bool{}
	for _, l := range all[Load](obey(j, t0, j.Start(t0, workers(4)), nil)) {
		if l.From == nil {
			continue
		}
		if gave[l.From.Rank] {
			t.Errorf("rank %d gives the piece again", l.From.Rank)
		}
		gave[l.From.Rank] = true
	}
	if len(gave) != 3 {
		t.Errorf("%d ranks gave it, want 3", len(gave))
	}
}

// Copies begin when a piece is placed, not when its rank is whole.
func TestCopiesDoNotWaitForTheSeal(t *testing.T) {
	j := New(copies(planOf(1, 20, everyone(1)), 2), Options{})
	placed := false
	obey(j, t0, j.Start(t0, workers(2)), func(c Command) bool {
		switch c := c.(type) {
		case Load:
			if c.From != nil {
				placed = true
			}
		case Seal:
			if !placed {
				t.Fatal("a rank is sealed before anything was copied")
			}
		}
		return false
	})
}

// half drives a load of two replicas until half of the chunks are placed in
// both, and returns the attempts that are under way.
func half(t *testing.T, j *Job, n int) (flying []Load) {
	t.Helper()
	obey(j, t0, j.Start(t0, workers(2)), func(c Command) bool {
		l, ok := c.(Load)
		if ok = ok && l.Ref.Chunk >= n/2; ok {
			flying = append(flying, l)
		}
		return ok
	})
	if got := j.Counters().ChunksDone; got != n/2 {
		t.Fatalf("%d chunks placed, want %d", got, n/2)
	}
	return flying
}

// A lost replica is filled from the one that is left, also by a worker that
// joins later.
func TestLostReplicaIsRefilled(t *testing.T) {
	const n = 20
	j := New(copies(planOf(1, n, everyone(1)), 2), Options{})
	flying := half(t, j, n)
	cmds := j.Step(t0, WorkerLost{Worker: Worker{"w1", 1}})
	for _, l := range flying {
		if l.Ref.Worker.Name == "w0" {
			cmds = append(cmds, j.Step(t0, done(l))...)
		}
	}
	if obey(j, t0, cmds, nil); j.Status() != Waiting {
		t.Fatalf("%s with one worker", j.Status())
	}
	if left := j.Ranks()[0]; !left.Sealed {
		t.Errorf("the replica that is left is not sealed: %+v", left)
	}
	read := j.BytesRead()
	for _, l := range all[Load](obey(j, t0, j.Step(t0, cpu("late", 1, 1000)), nil)) {
		if l.From == nil || l.From.Rank != 0 {
			t.Errorf("%+v: not from the replica", l)
		}
	}
	if j.Status() != Ready || j.BytesRead() != read {
		t.Errorf("%s, %d bytes read for the late worker: %v", j.Status(), j.BytesRead()-read, j.Err())
	}
}

// What no replica can give any more is read from the source.
func TestLastReplicaLost(t *testing.T) {
	const n = 20
	j := New(copies(planOf(1, n, everyone(1)), 2), Options{})
	half(t, j, n)
	j.Step(t0, WorkerLost{Worker: Worker{"w0", 1}})
	cmds := j.Step(t0, WorkerLost{Worker: Worker{"w1", 1}})
	cmds = append(cmds, j.Step(t0, cpu("w2", 1, 2000))...)
	reads := map[int]int{}
	for _, l := range all[Load](obey(j, t0, cmds, nil)) {
		if l.From == nil {
			reads[l.Ref.Chunk]++
		}
	}
	if j.Status() != Ready || len(reads) != n {
		t.Errorf("%s after %d chunks were read again: %v", j.Status(), len(reads), j.Err())
	}
}

// A piece that cannot be copied is copied from another replica, and at last
// read.
func TestCopyThatFails(t *testing.T) {
	j := New(copies(planOf(1, 1, everyone(1)), 2), Options{})
	now, tries, reads := t0, 0, 0
	var fail func(cmds []Command)
	fail = func(cmds []Command) {
		for _, l := range all[Load](obey(j, now, cmds, func(c Command) bool { l, ok := c.(Load); return ok && l.From != nil })) {
			if l.From == nil {
				reads++
				continue
			}
			tries++
			e := ChunkFailed{Ref: l.Ref, Err: recovery.Errorf(recovery.DigestMismatch, "damaged")}
			fail(append(j.Step(now, Accepted{l.Ref}), j.Step(now, e)...))
		}
	}
	fail(j.Start(t0, workers(2)))
	for i := 0; i < 10 && j.Status() != Ready; i++ {
		now = now.Add(time.Second)
		fail(j.Step(now, Tick{}))
	}
	if j.Status() != Ready || tries != copyTries || reads != 2 {
		t.Errorf("%s after %d copies and %d reads: %v", j.Status(), tries, reads, j.Err())
	}
}

// What another job's arena holds is copied from there, also for a layout
// without copies, and read from the source when it goes.
func TestLentArenas(t *testing.T) {
	const n = 20
	for _, dp := range []int{1, 3} {
		ups := workers(4)
		for i := range dp {
			ups[i].Rooms[0].Bytes = 1000
		}
		ups[3].Rooms, ups[3].Lends = nil, []int{0} // it has no room left
		j := New(copies(planOf(1, n, everyone(1)), dp), Options{})
		from := 0
		for _, l := range all[Load](obey(j, t0, j.Start(t0, ups), nil)) {
			if l.From == nil {
				t.Errorf("dp %d: %+v reads what is lent", dp, l)
			} else if l.From.Generation == 0 {
				from++
			}
		}
		if j.Status() != Ready || from != n || j.BytesRead() != 0 {
			t.Errorf("dp %d: %s, %d of %d pieces from the lender, %d bytes read: %v", dp, j.Status(), from, n, j.BytesRead(), j.Err())
		}

		j = New(copies(planOf(1, n, everyone(1)), dp), Options{})
		var flying []Load
		obey(j, t0, j.Start(t0, ups), func(c Command) bool {
			l, ok := c.(Load)
			if ok = ok && l.From != nil && l.From.Generation == 0 && l.Ref.Chunk >= n/2; ok {
				flying = append(flying, l)
			}
			return ok
		})
		cmds := j.Step(t0, ChunkFailed{Ref: flying[0].Ref, Err: recovery.Errorf(recovery.Stale, "unloaded")})
		obey(j, t0, cmds, nil)
		if j.Status() != Ready || j.BytesRead() != 100*n/2 || j.Retries() != 0 {
			t.Errorf("dp %d: %s, %d bytes read, %d retries after half was lent: %v", dp, j.Status(), j.BytesRead(), j.Retries(), j.Err())
		}
	}
}
