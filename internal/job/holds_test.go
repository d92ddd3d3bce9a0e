package job

import (
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

func TestPlaceFailure(t *testing.T) {
	full := recovery.Errorf(recovery.OutOfCapacity, "mmap: cannot allocate memory")
	busy := recovery.Errorf(recovery.DeviceBusy, "try later")
	j := New(planOf(1, 1, everyone(1)), Options{})
	h := all[Place](j.Start(t0, []WorkerUp{cpu("a", 1, 1000), cpu("b", 1, 1000)}))[0].Hold
	if p := all[Place](j.Step(t0, PlaceFailed{h, busy})); len(p) != 0 {
		t.Errorf("asked at once again: %v", p)
	}
	if p := all[Place](j.Step(t0.Add(time.Second), Tick{})); len(p) != 1 || p[0].Hold != h {
		t.Errorf("a busy device was not asked again: %v", p)
	}
	p := all[Place](j.Step(t0, PlaceFailed{h, full}))
	if len(p) != 1 || p[0].Hold.Worker.Name != "b" || p[0].Hold.Generation != 2 {
		t.Fatalf("a full device: %v, want the other", p)
	}
	ends := all[End](j.Step(t0, PlaceFailed{p[0].Hold, full}))
	if len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity {
		t.Errorf("no device takes it: %v", ends)
	}
}

// TestSealWithoutMemory: a rank that cannot be checked because memory is full
// is asked for again, and moved when that does not help.
func TestSealWithoutMemory(t *testing.T) {
	full := recovery.Errorf(recovery.OutOfCapacity, "std::bad_alloc")
	for name, c := range map[string]struct {
		strategy recovery.Strategy
		workers  []WorkerUp
		asked    int
		moves    bool
	}{
		"to another":    {recovery.Recover(), []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 1000)}, recovery.DefaultAttempts, true},
		"to nobody":     {recovery.Recover(), []WorkerUp{cpu("a", 1, 1000)}, recovery.DefaultAttempts, false},
		"under no care": {recovery.FailFast(), []WorkerUp{cpu("a", 1, 2000), cpu("b", 1, 1000)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			j := New(planOf(1, 0, nil), Options{Strategy: c.strategy})
			h := all[Place](j.Start(t0, c.workers))[0].Hold
			now, cmds := t0, j.Step(t0, Placed{h})
			for try := 0; ; try++ {
				if s := all[Seal](cmds); len(s) != 1 || s[0].Hold != h {
					t.Fatalf("try %d: %v, want it sealed", try, cmds)
				}
				if cmds = j.Step(now, SealFailed{h, full}); try == c.asked {
					break
				}
				now = now.Add(time.Minute)
				cmds = append(cmds, j.Step(now, Tick{})...)
			}
			p, ends := all[Place](cmds), all[End](cmds)
			if c.moves && (len(p) != 1 || p[0].Hold.Worker.Name != "b" || len(all[Free](cmds)) != 1) {
				t.Errorf("%v, want it moved", cmds)
			}
			if !c.moves && (len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity) {
				t.Errorf("%v, want the end", cmds)
			}
		})
	}
}

func TestUnansweredPlaceAndSealAreSentAgain(t *testing.T) {
	j := New(planOf(1, 0, nil), Options{})
	h := all[Place](j.Start(t0, []WorkerUp{cpu("a", 1, 1000)}))[0].Hold
	now := t0.Add(DefaultAnswer)
	if p := all[Place](j.Step(now, Tick{})); len(p) != 1 || p[0].Hold != h {
		t.Errorf("places %v", p)
	}
	if s := all[Seal](j.Step(now, Placed{h})); len(s) != 1 {
		t.Fatalf("seals %v", s)
	}
	if s := all[Seal](j.Step(now, Placed{h})); len(s) != 0 {
		t.Errorf("a doubled answer sealed again: %v", s)
	}
	now = now.Add(DefaultAnswer)
	if s := all[Seal](j.Step(now, Tick{})); len(s) != 1 {
		t.Errorf("seals %v", s)
	}
	j.Step(now, Sealed{Hold: h})
	if j.Status() != Ready {
		t.Errorf("status %s", j.Status())
	}
}
