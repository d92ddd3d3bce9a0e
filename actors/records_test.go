package actors

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// TestWorkerLostWhileModelIsRecorded: of a worker that is lost when all is
// placed, and before the model is one of the coordinator's, the part is placed
// anew.
func TestWorkerLostWhileModelIsRecorded(t *testing.T) {
	w := newWorld(t, 1)
	var once sync.Once
	writing, gate := make(chan struct{}), make(chan struct{})
	w.mem.before = func(what string) error {
		if what == "model" {
			once.Do(func() { close(writing) }) // a repair writes it again
			<-gate
		}
		return nil
	}
	if _, err := w.co.Load(t.Context(), request("a")); err != nil {
		t.Fatal(err)
	}
	<-writing
	w.co.MemberLost("w0", 1, "its lease ended")
	close(gate)
	w.until("the model is repaired", func() bool {
		m, _ := w.model("m-a")
		return m.State == messages.StateRepairing
	})
}

// TestUnloadedStaysUnloaded: a model whose job the coordinator before had not
// written down to its end can be unloaded, and is not loaded again by the next
// coordinator, though the store fails for a while.
func TestUnloadedStaysUnloaded(t *testing.T) {
	w := newWorld(t, 1)
	var fails atomic.Bool
	fails.Store(true)
	failed := make(chan struct{}, 100)
	w.mem.before = func(what string) error {
		if what == "job" && fails.Load() {
			failed <- struct{}{}
			return recovery.Errorf(recovery.ClusterLost, "the store is away")
		}
		return nil
	}
	if _, err := w.co.Load(t.Context(), request("a")); err != nil {
		t.Fatal(err)
	}
	<-failed // the model is written, and the job is not
	if err := w.co.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start(2, w.system.log, w.members...)
	if j := w.wait("a"); j.State != messages.StateReady {
		t.Fatalf("%s: %s", j.State, j.Why)
	}
	<-failed
	unloaded := make(chan error, 1)
	go func() {
		_, err := w.co.Unload(t.Context(), messages.ModelRequest{Name: "m-a"})
		unloaded <- err
	}()
	w.until("its memory is free", w.nodes[0].empty)
	fails.Store(false)
	if err := <-unloaded; err != nil {
		t.Fatal(err)
	}
	if err := w.co.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start(3, w.system.log, w.members...)
	if j := w.wait("a"); j.State != messages.StateReady {
		t.Errorf("%s: %s", j.State, j.Why)
	}
	if n := w.mem.count(progress.CoordinatorChanged); n != 0 {
		t.Errorf("%d times a coordinator went on with it", n)
	}
	if models, err := w.co.Models(t.Context()); err != nil || len(models) != 0 || !w.nodes[0].empty() {
		t.Errorf("models %+v, %v", models, err)
	}
}
