package actors

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

func TestLoadEndsReady(t *testing.T) {
	w := newWorld(t, 3)
	q := request("a")
	q.Options.Layout.TP = 2
	j := w.load(q)
	if j.State != messages.StateReady || len(j.Ranks) != 2 || j.Retries != 0 || j.Overall != 1 {
		t.Fatalf("%+v", j)
	}
	if j.PeakStagingBytes != 42 || j.Validation.State != "skipped" || j.Plan == "" || j.Ranks[1].Digest == "" {
		t.Errorf("report: %+v", j)
	}
	for _, k := range []progress.Kind{progress.Submitted, progress.Planned, progress.Started, progress.ReadyEvent} {
		if w.mem.count(k) != 1 {
			t.Errorf("%d events %s", w.mem.count(k), k)
		}
	}
	w.mem.mu.Lock()
	stored := w.mem.jobs["a"].State
	news := len(w.mem.news)
	w.mem.mu.Unlock()
	if stored != messages.StateReady || news == 0 {
		t.Errorf("stored as %s, %d progress updates", stored, news)
	}

	again, err := w.co.Load(t.Context(), q)
	if err != nil || again.State != messages.StateReady {
		t.Errorf("the same id again: %+v, %v", again.State, err)
	}
	q.Job = "b"
	if _, err := w.co.Load(t.Context(), q); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a second model of the name: %v", err)
	}
	w.until("who holds no rank has closed the job", w.nodes[2].empty)
	models, err := w.co.Models(t.Context())
	if err != nil || len(models) != 1 || models[0].Name != "m-a" {
		t.Fatalf("models %+v, %v", models, err)
	}
	if _, err := w.co.Unload(t.Context(), messages.ModelRequest{Name: "m-a"}); err != nil {
		t.Fatal(err)
	}
	for i, n := range w.nodes {
		if !n.empty() {
			t.Errorf("worker %d still holds something", i)
		}
	}
	if models, _ = w.co.Models(t.Context()); len(models) != 0 || w.mem.count(progress.Unloaded) != 1 {
		t.Errorf("after unload: %+v", models)
	}
}

func TestOnceLeavesNothing(t *testing.T) {
	w := newWorld(t, 1)
	q := request("a")
	q.Once = true
	if j := w.load(q); j.State != messages.StateReady {
		t.Fatalf("%+v", j)
	}
	w.until("it is unloaded", func() bool { return w.nodes[0].empty() })
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	if len(w.mem.models) != 0 {
		t.Errorf("models %v", w.mem.models)
	}
}

// TestSwap: the new model takes the place of the old one when it is ready, and
// the old one is freed; a swap that fails leaves it as it is.
func TestSwap(t *testing.T) {
	w := newWorld(t, 2)
	q := request("a")
	q.Options.Layout.TP, q.Name = 2, "m"
	if _, err := w.co.Swap(t.Context(), q); recovery.ClassOf(err) != recovery.NotFound {
		t.Fatalf("swap of nothing: %v", err)
	}
	old := w.load(q)
	model := func() messages.Model {
		t.Helper()
		models, err := w.co.Models(t.Context())
		if err != nil || len(models) != 1 {
			t.Fatalf("models %+v, %v", models, err)
		}
		return models[0]
	}
	swap := func(id string) messages.Job {
		t.Helper()
		q.Job = id
		if _, err := w.co.Swap(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		return w.wait(id)
	}
	broken := recovery.Errorf(recovery.InvalidCheckpoint, "broken")
	for _, n := range w.nodes {
		n.load = func(context.Context, job.Ref) error { return broken }
	}
	if j := swap("bad"); j.State != messages.StateFailed || model().Job != old.Job {
		t.Fatalf("%s, and the model is of %s", j.State, model().Job)
	}
	for _, n := range w.nodes {
		n.load = nil
	}
	if j := swap("b"); j.State != messages.StateReady || model().Job != "b" {
		t.Fatalf("%s: %s; the model is of %s", j.State, j.Why, model().Job)
	}
	for _, n := range w.nodes {
		w.until("the old model is freed", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			_, old := n.open["a"]
			_, young := n.open["b"]
			return !old && young
		})
	}
	if w.mem.count(progress.Swapped) != 1 {
		t.Errorf("%d events swapped", w.mem.count(progress.Swapped))
	}
	// The model's record is what counts: a leader that goes between it and the
	// job's leaves a job that is ready.
	w.mem.mu.Lock()
	rec := w.mem.jobs["b"]
	rec.State = messages.StateSealing
	w.mem.jobs["b"] = rec
	w.mem.mu.Unlock()
	if err := w.co.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start(2, nil)
	if j := w.wait("b"); j.State != messages.StateReady || model().Job != "b" {
		t.Errorf("%s after the leader was lost; the model is of %s", j.State, model().Job)
	}
}

func TestChunkIsRetried(t *testing.T) {
	for _, c := range []struct {
		name     string
		recovery string
		class    recovery.Class
		failures int
		state    messages.State
		retries  int
	}{
		{"twice, then works", "recover", recovery.Unavailable, 2, messages.StateReady, 2},
		{"always", "retry(2)", recovery.Unavailable, 1000, messages.StateFailed, 2},
		{"fail-fast", "fail-fast", recovery.Unavailable, 1, messages.StateFailed, 0},
		{"hopeless", "recover", recovery.InvalidCheckpoint, 1, messages.StateFailed, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.nodes[0].load = func(_ context.Context, ref job.Ref) error {
				if ref.Chunk == 7 && w.nodes[0].tries(7) <= c.failures {
					return &recovery.Error{Class: c.class, Op: "read", File: "m.safetensors", Offset: 448, Length: 64, Err: errors.New("bad disk")}
				}
				return nil
			}
			q := request("a")
			q.Recovery = c.recovery
			j := w.load(q)
			if j.State != c.state || j.Retries != c.retries {
				t.Errorf("state %s, %d retries: %s", j.State, j.Retries, j.Why)
			}
			if c.state == messages.StateFailed {
				if j.Class != c.class || !strings.Contains(j.Why, "bad disk") || strings.Contains(j.Why, "\n") {
					t.Errorf("class %s, why %q", j.Class, j.Why)
				}
				w.until("its memory is free", w.nodes[0].empty)
			}
		})
	}
}

func TestPanicIsTriedAgain(t *testing.T) {
	w := newWorld(t, 1)
	w.nodes[0].load = func(_ context.Context, ref job.Ref) error {
		if ref.Chunk == 3 && w.nodes[0].tries(3) <= 2 {
			panic("a bug")
		}
		return nil
	}
	if j := w.load(request("a")); j.State != messages.StateReady || j.Retries != 2 {
		t.Fatalf("state %s, %d retries: %s", j.State, j.Retries, j.Why)
	}

	w = newWorld(t, 1)
	w.nodes[0].load = func(_ context.Context, ref job.Ref) error {
		if ref.Chunk == 3 {
			panic("a bug")
		}
		return nil
	}
	q := request("a")
	q.Recovery = "recover"
	if j := w.load(q); j.State != messages.StateFailed || j.Class != recovery.Internal {
		t.Fatalf("state %s, class %s: %s", j.State, j.Class, j.Why)
	}
	if n := w.nodes[0].tries(3); n != maxPanics+1 {
		t.Errorf("%d tries, want %d", n, maxPanics+1)
	}
}

func TestPlanErrorsKeepTheirClass(t *testing.T) {
	for _, class := range []recovery.Class{recovery.NotFound, recovery.InvalidCheckpoint, recovery.NotAllowed} {
		w := newWorld(t, 2)
		w.openErr = recovery.Errorf(class, "no such thing")
		if j := w.load(request("a")); j.State != messages.StateFailed || j.Class != class {
			t.Errorf("state %s, class %s, want %s", j.State, j.Class, class)
		}
	}
}

func TestDoesNotFit(t *testing.T) {
	w := newWorld(t, 1)
	big := w.members[0]
	big.Devices = []messages.Device{{ID: "cpu", Total: 100, Free: 100}}
	w.co.MemberUp(big)
	j := w.load(request("a"))
	if j.State != messages.StateFailed || j.Class != recovery.OutOfCapacity || w.nodes[0].tries(0) != 0 {
		t.Errorf("state %s, class %s: %s", j.State, j.Class, j.Why)
	}
	q := request("b")
	q.Device = "cuda:0"
	if j := w.load(q); j.Class != recovery.OutOfCapacity {
		t.Errorf("class %s: %s", j.Class, j.Why)
	}
}

func TestCancelFrees(t *testing.T) {
	w := newWorld(t, 2)
	started := make(chan struct{}, 100)
	for _, n := range w.nodes {
		n.load = func(ctx context.Context, _ job.Ref) error {
			started <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
	}
	j, err := w.co.Load(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	<-started
	if _, err := w.co.Cancel(t.Context(), messages.JobRequest{}); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("whichever: %v", err)
	}
	if _, err := w.co.Cancel(t.Context(), messages.JobRequest{Job: j.Job, Reason: "changed my mind"}); err != nil {
		t.Fatal(err)
	}
	if j = w.wait(j.Job); j.State != messages.StateCancelled || j.Class != recovery.Cancelled {
		t.Errorf("%+v", j)
	}
	for _, n := range w.nodes {
		if !n.empty() {
			t.Error("something is still held")
		}
	}
}

// TestWorkerLost: the rest goes on without it, and the events say so.
func TestWorkerLost(t *testing.T) {
	w := newWorld(t, 2)
	gate := make(chan struct{})
	for i, n := range w.nodes {
		n.load = func(ctx context.Context, ref job.Ref) error {
			if ref.Chunk < 4 {
				return nil
			}
			if i == 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	q := request("a")
	q.Options.Layout.DP = 2
	j, err := w.co.Load(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	w.until("some chunks are placed", func() bool {
		s, _ := w.co.Status(t.Context(), messages.JobRequest{Job: j.Job})
		return s.Counters.ChunksDone >= 2
	})
	if err := w.workers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	w.co.MemberLost("w0", 1, "its lease ended")
	close(gate)
	j = w.wait(j.Job)
	if j.State != messages.StateReady {
		t.Fatalf("state %s: %s", j.State, j.Why)
	}
	for _, r := range j.Ranks {
		if r.Worker != "w1" {
			t.Errorf("rank %d is at %s", r.Rank, r.Worker)
		}
	}
	if w.mem.count(progress.WorkerLost) != 1 || w.mem.count(progress.RankMoved) == 0 {
		t.Errorf("events: %d lost, %d moved", w.mem.count(progress.WorkerLost), w.mem.count(progress.RankMoved))
	}
}

func TestWaitsForAWorker(t *testing.T) {
	w := newWorld(t, 0)
	j, err := w.co.Load(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if j = w.wait(j.Job); j.State != messages.StateFailed || j.Class != recovery.OutOfCapacity {
		t.Errorf("state %s, class %s: %s", j.State, j.Class, j.Why)
	}
	if d := time.Since(start); d < 4*time.Second {
		t.Errorf("it waited only %s", d)
	}
}

// TestRequirements uses only workers that have what is required, and refuses
// at once where none has.
func TestRequirements(t *testing.T) {
	w := newWorld(t, 3)
	q := request("a")
	q.Require.CPU = []string{"unit2"} // w2's
	j := w.load(q)
	if j.State != messages.StateReady || len(j.Ranks) != 1 || j.Ranks[0].Worker != "w2" {
		t.Errorf("%+v", j)
	}
	q = request("b")
	q.Require.CPU = []string{"abacus"}
	if j := w.load(q); j.State != messages.StateFailed || j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, "no abacus") {
		t.Errorf("%+v", j)
	}
	q.Job, q.Require.Device = "c", "slide rule"
	if _, err := w.co.Load(t.Context(), q); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a kind of device that there is none of: %v", err)
	}
}
