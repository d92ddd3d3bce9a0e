package integration

import (
	"os"
	"syscall"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// TestWorkerFrozen: a worker that is stopped and not killed keeps its
// connection, and is found out by its lease. When it thaws it is of use again.
func TestWorkerFrozen(t *testing.T) {
	c := StartCluster(t, bin, 3)
	j := c.Submit(slow(t, "frozen", 2))
	var victim string
	c.Until("something is placed", func() bool {
		s := c.Status(j.Job)
		if s.Counters.ChunksDone < 2 || s.State.Final() {
			return s.State.Final()
		}
		victim = s.Ranks[0].Worker
		return true
	})
	if victim == "" {
		t.Fatal("the load ended before a worker could be frozen")
	}
	frozen := c.Workers[victim].cmd.Process
	if err := frozen.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	end := c.Await(j.Job)
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if end.State != messages.StateReady {
		t.Fatalf("%s: %s", end.State, end.Why)
	}
	for _, r := range end.Ranks {
		if r.Worker == victim {
			t.Errorf("rank %d is at the frozen worker", r.Rank)
		}
	}
	c.Until("the worker is back", func() bool { return len(c.MustWorkers()) == 3 })
	if again := c.Load(stories(t, "hf-f32", "again", 4)); again.State != messages.StateReady {
		t.Errorf("%s: %s", again.State, again.Why)
	}
}

// TestCoordinatorRestarted: the job that a killed coordinator leaves is
// brought to its end by the next one on the same state.
func TestCoordinatorRestarted(t *testing.T) {
	c := &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}
	c.Lasting(t.TempDir())
	c.StartWorker("w1")
	c.StartWorker("w2")
	kept := c.Load(stories(t, "hf-f32", "kept", 2))
	if kept.State != messages.StateReady {
		t.Fatal(kept.Why)
	}
	q := slow(t, "left", 2)
	q.URI = t.TempDir()
	if err := os.CopyFS(q.URI, os.DirFS(kept.URI)); err != nil {
		t.Fatal(err)
	}
	if err := digests.WriteBeside(t.Context(), q.URI); err != nil {
		t.Fatal(err)
	}
	j := c.Submit(q)
	before := c.until(j.Job, .5)
	c.Coordinator.Kill()
	c.Conn.Close()
	c.Restart()
	end := c.Await(j.Job)
	if end.State != messages.StateReady || end.Epoch <= kept.Epoch {
		t.Fatalf("%s of epoch %d: %s", end.State, end.Epoch, end.Why)
	}
	// What was placed is where it was, and is not read again.
	for i, r := range end.Ranks {
		if r.Worker != before.Ranks[i].Worker {
			t.Errorf("rank %d was at %s and is at %s", i, before.Ranks[i].Worker, r.Worker)
		}
	}
	if !end.SourceVerified {
		t.Error("what was placed before was verified, and nobody knows of it")
	}
	if again := onItsWay * end.Options.ChunkBytes; end.BytesRead > end.Counters.BytesToRead+again || before.BytesRead <= again {
		t.Errorf("%d bytes of %d were read, %d of them when the coordinator died", end.BytesRead, end.Counters.BytesToRead, before.BytesRead)
	}
	if got := events(t, c, j.Job); len(got[progress.CoordinatorChanged]) != 1 {
		t.Errorf("%d events coordinator_changed", len(got[progress.CoordinatorChanged]))
	}
	if models, err := c.Client.Models(t.Context()); err != nil || len(models) != 2 {
		t.Errorf("models %v, %v", models, err)
	}
}

// TestPlannerLost: a worker that is killed, or freezes, while it reads the
// headers for the plan is not waited for: the next one is asked.
func TestPlannerLost(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			c := StartCluster(t, bin, 1, "--inject", "read model.safetensors delay 1m") // the first by name plans
			c.StartWorker("w2")
			q := stories(t, "hf-f32", name, 1)
			c.Submit(q)
			c.Until("it is being planned", func() bool { return c.Status(q.Job).State == messages.StatePlanning })
			if err := c.Workers["w1"].cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if end := c.Await(q.Job); end.State != messages.StateReady {
				t.Errorf("%s: %s", end.State, end.Why)
			}
		})
	}
}
