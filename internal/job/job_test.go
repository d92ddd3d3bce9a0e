package job

import (
	"testing"
	"time"

	"github.com/gantry-ml/gantry/progress"
)

func TestQuietLoadReadsEachByteOnce(t *testing.T) {
	for name, to := range map[string]func(int) []int{"replicated": everyone(4), "cut": inTurn(4)} {
		t.Run(name, func(t *testing.T) {
			j := New(planOf(4, 50, to), Options{})
			seen := obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 2000), cpu("spare", 1, 0)}), nil)
			if j.Status() != Ready {
				t.Fatalf("status %s, want ready: %v", j.Status(), j.Err())
			}
			if loads := all[Load](seen); len(loads) != 50 {
				t.Errorf("%d loads, want one for each of 50 chunks", len(loads))
			}
			if j.BytesRead() != 5000 {
				t.Errorf("read %d bytes, want 5000", j.BytesRead())
			}
			c := j.Counters()
			if c.Overall() != 1 || c.Stage() != progress.Completed || c.ChunksDone != 50 || c.RanksValidated != 4 {
				t.Errorf("counters %+v", c)
			}
			if frees := all[Free](seen); len(frees) != 0 {
				t.Errorf("a ready job frees %v", frees)
			}
			if ends := all[End](seen); len(ends) != 1 || ends[0].State != Ready {
				t.Errorf("ends %v", ends)
			}
			for _, r := range j.Ranks() {
				if !r.Sealed || r.BytesDone != r.BytesTotal {
					t.Errorf("rank %+v", r)
				}
			}
		})
	}
}

// TestOneReadsAllOfATensorThatIsReadTwice: whoever measured it.
func TestOneReadsAllOfATensorThatIsReadTwice(t *testing.T) {
	for name, to := range map[string]func(int) []int{"replicated": everyone(4), "cut": inTurn(4)} {
		j := New(readTwice(planOf(4, 40, to)), Options{})
		seen := obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 2000)}), nil)
		readers := [2]map[string]int{{}, {}}
		for _, l := range all[Load](seen) {
			readers[l.Ref.Chunk%2][l.Ref.Worker.Name]++
		}
		if j.Status() != Ready || len(readers[0]) != 1 || len(readers[1]) != 1 || readers[0]["a"] == readers[1]["a"] {
			t.Errorf("%s: %s, tensors are read by %v", name, j.Status(), readers)
		}
	}
}

func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	j := New(planOf(1, 50, everyone(1)), Options{})
	seen := obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000)}), func(c Command) bool { _, is := c.(Load); return is })
	loads := all[Load](seen)
	if len(loads) != 3 {
		t.Fatalf("%d chunks of 100 bytes in a window of 300, want 3", len(loads))
	}
	for i, l := range loads {
		if l.Ref.Chunk != i {
			t.Errorf("load %d is chunk %d: want the plan's order", i, l.Ref.Chunk)
		}
	}
	if next := all[Load](j.Step(t0, done(loads[1]))); len(next) != 1 || next[0].Ref.Chunk != 3 {
		t.Errorf("after one report came %v, want chunk 3", next)
	}
	if again := all[Load](j.Step(t0, done(loads[1]))); len(again) != 0 {
		t.Errorf("a doubled report gave credit: %v", again)
	}
}

func TestOneChunkIsAllowedWhateverTheWindow(t *testing.T) {
	j := New(planOf(1, 3, everyone(1)), Options{})
	w := cpu("a", 1, 2000)
	w.Window = 1
	obey(j, t0, j.Start(t0, []WorkerUp{w}), nil)
	if j.Status() != Ready {
		t.Errorf("status %s", j.Status())
	}
}

func TestOwnersReadTheirOwnAndOthersSteal(t *testing.T) {
	j := New(planOf(1, 20, everyone(1)), Options{})
	seen := obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 0)}), func(c Command) bool { _, is := c.(Load); return is })
	by := map[string][]int{}
	for _, l := range all[Load](seen) {
		by[l.Ref.Worker.Name] = append(by[l.Ref.Worker.Name], l.Ref.Chunk)
	}
	if got := by["a"]; len(got) != 3 || got[0] != 0 {
		t.Errorf("the owner reads %v, want the first three", got)
	}
	if got := by["b"]; len(got) != 3 || got[0] != 19 {
		t.Errorf("the other reads %v, want the last three", got)
	}
}

func TestLostLoadIsSentAgainUnderTheSameRef(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	isLoad := func(c Command) bool { _, is := c.(Load); return is }
	first := all[Load](obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 2000)}), isLoad))
	if again := all[Load](j.Step(t0.Add(time.Second), Tick{})); len(again) != 0 {
		t.Fatalf("sent again too early: %v", again)
	}
	cmds := j.Step(t0.Add(DefaultAccept), Tick{})
	again := all[Load](cmds)
	if len(again) != 1 || again[0].Ref != first[0].Ref {
		t.Fatalf("after the time-out came %v, want %v again", cmds, first[0])
	}
	j.Step(t0.Add(3*time.Second), Accepted{first[0].Ref})
	if more := all[Load](j.Step(t0.Add(time.Hour), Tick{})); len(more) != 0 {
		t.Errorf("an accepted load was sent again: %v", more)
	}
	// Its report is lost: the worker does not hold it any more.
	at := t0.Add(time.Hour)
	j.Step(at, Holding{Worker: first[0].Ref.Worker})
	late := j.Step(at.Add(DefaultAccept), Holding{Worker: first[0].Ref.Worker})
	if l := all[Load](late); len(l) != 1 || l[0].Ref.Attempt != 2 {
		t.Errorf("after a lost report came %v, want attempt 2", late)
	}
}

func TestReadsAreCountedOnceAnAttempt(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	w := cpu("a", 1, 1000)
	isLoad := func(c Command) bool { _, is := c.(Load); return is }
	first := all[Load](obey(j, t0, j.Start(t0, []WorkerUp{w}), isLoad))[0]
	j.Step(t0, WorkerSuspect{Worker: w.Worker})
	second := all[Load](j.Step(t0, w))[0]
	for _, step := range []struct {
		load Load
		want int64
	}{{second, 100}, {second, 100}, {first, 200}, {first, 200}, {second, 200}} {
		j.Step(t0, done(step.load))
		if j.BytesRead() != step.want {
			t.Errorf("after a report of attempt %d: %d bytes, want %d", step.load.Ref.Attempt, j.BytesRead(), step.want)
		}
	}
	j.Step(t0, ChunkDone{Ref: Ref{Chunk: 0, Attempt: 9, Worker: w.Worker}, BytesRead: 7})
	j.Step(t0, ChunkDone{Ref: Ref{Chunk: 99, Attempt: 1, Worker: w.Worker}, BytesRead: 7})
	j.Step(t0, ChunkDone{Ref: Ref{Chunk: -1}, BytesRead: 7})
	if j.BytesRead() != 200 {
		t.Errorf("reports of attempts that never were counted: %d bytes", j.BytesRead())
	}
}

// TestLostReadIsCounted: what a worker read and placed before it was lost, and
// never told, was read nevertheless.
func TestLostReadIsCounted(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	w := cpu("a", 1, 1000)
	isLoad := func(c Command) bool { _, is := c.(Load); return is }
	first := all[Load](obey(j, t0, j.Start(t0, []WorkerUp{w}), isLoad))[0]
	j.Step(t0, WorkerSuspect{Worker: w.Worker})
	again := done(all[Load](j.Step(t0, w))[0])
	again.BytesRead = 0 // its pieces are there already
	j.Step(t0, again)
	if j.BytesRead() != 100 {
		t.Errorf("%d bytes, want the chunk's 100", j.BytesRead())
	}
	late := done(first) // it thaws, and tells after all
	if late.BytesRead = 100; len(j.Step(t0, late)) > 0 || j.BytesRead() != 100 {
		t.Errorf("%d bytes after the late report, want 100", j.BytesRead())
	}
}

func TestReportMustNameItsPieces(t *testing.T) {
	isLoad := func(c Command) bool { _, is := c.(Load); return is }
	for name, spoil := range map[string]func(*ChunkDone){
		"a piece is left out":  func(d *ChunkDone) { d.Pieces = nil },
		"of another arena":     func(d *ChunkDone) { d.Pieces[0].Generation++ },
		"of a rank not loaded": func(d *ChunkDone) { d.Pieces[0].Rank = 5 },
	} {
		j := New(planOf(1, 1, everyone(1)), Options{})
		d := done(all[Load](obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 1000)}), isLoad))[0])
		spoil(&d)
		if ends := all[End](j.Step(t0, d)); len(ends) != 1 || ends[0].State != Failed {
			t.Errorf("%s: %v", name, ends)
		}
		if j.Counters().BytesPlaced != 0 {
			t.Errorf("%s: counted as placed", name)
		}
	}
}

func TestSealIsBelievedOnlyOfAWholeRank(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	isLoad := func(c Command) bool { _, is := c.(Load); return is }
	h := all[Load](obey(j, t0, j.Start(t0, []WorkerUp{cpu("a", 1, 1000)}), isLoad))[0].Dests[0]
	for _, hold := range []Hold{h, {}, {Rank: -1}, {Rank: 7}} {
		if cmds := j.Step(t0, Sealed{Hold: hold}); len(cmds) != 0 || j.Ranks()[0].Sealed {
			t.Errorf("sealed %+v with a piece missing: %v", hold, cmds)
		}
	}
}
