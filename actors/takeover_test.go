package actors

import (
	"context"
	"testing"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// gated makes all nodes wait with every chunk until the channel is closed.
func (w *world) gated() chan struct{} {
	gate := make(chan struct{})
	for _, n := range w.nodes {
		n.load = func(ctx context.Context, _ job.Ref) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return gate
}

// hasHold reports whether the node holds a rank.
func (n *fakeNode) hasHold() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.holds) > 0
}

// TestNextCoordinator: a job that an old coordinator left is brought to its
// end by the next, and the old epoch is fenced.
func TestNextCoordinator(t *testing.T) {
	w := newWorld(t, 2)
	gate := w.gated()
	j, err := w.co.Load(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	w.until("it loads", func() bool {
		s, _ := w.co.Status(t.Context(), messages.JobRequest{Job: j.Job})
		return s.State == messages.StateLoading
	})
	if err := w.co.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start(2, w.system.log, w.members...)
	close(gate)
	if j = w.wait(j.Job); j.State != messages.StateReady || j.Epoch != 2 {
		t.Fatalf("state %s of epoch %d: %s", j.State, j.Epoch, j.Why)
	}
	if w.mem.count(progress.CoordinatorChanged) != 1 {
		t.Error("no event tells of the change")
	}
}

// TestLateWorkerForgetsJob: a worker that has a job open since the last
// coordinator, and is heard of only when the job is over or about to be,
// closes it.
func TestLateWorkerForgetsJob(t *testing.T) {
	for name, once := range map[string]bool{"resident": false, "closing": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			gate := w.gated()
			q := request("a")
			q.Once = once
			if _, err := w.co.Load(t.Context(), q); err != nil {
				t.Fatal(err)
			}
			holder, late := 0, 1
			w.until("both have it open, one with its rank", func() bool {
				if w.nodes[1].hasHold() {
					holder, late = 1, 0
				}
				return w.nodes[holder].hasHold() && !w.nodes[late].empty()
			})
			if err := w.co.Stop(); err != nil {
				t.Fatal(err)
			}
			held := make(chan struct{})
			w.nodes[holder].held = held
			defer close(held)
			close(gate)
			w.start(2, w.system.log, w.members[holder])
			w.until("it is ready", func() bool {
				j, err := w.co.Status(t.Context(), messages.JobRequest{Job: "a"})
				return err == nil && j.State == messages.StateReady
			})
			w.co.MemberUp(w.members[late])
			w.until("the late one has closed it", w.nodes[late].empty)
		})
	}
}
