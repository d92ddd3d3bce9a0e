package actors

import (
	"context"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/recovery"
)

// TestRevokedChunkTellsWhatItRead: an attempt that is revoked, in a try or
// between two, makes no other, and says what it has read.
func TestRevokedChunkTellsWhatItRead(t *testing.T) {
	for name, between := range map[string]bool{"in a try": false, "between tries": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			node, trying := w.nodes[0], make(chan struct{}, 1)
			node.load = func(ctx context.Context, _ job.Ref) error {
				if between {
					return recovery.Errorf(recovery.Reset, "connection refused")
				}
				trying <- struct{}{}
				<-ctx.Done()
				return context.Cause(ctx)
			}
			strategy := recovery.Recover()
			strategy.Backoff.Base, strategy.Backoff.Max = time.Hour, time.Hour
			task := &chunkTask{ctx: t.Context(), ref: job.Ref{Chunk: 3, Attempt: 1}, job: &heldJob{ctx: t.Context()}}
			task.job.spec.Strategy = strategy
			said, pids := make(chan any, 8), make(chan *actor.PID, 1)
			parent := w.system.root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
				switch m := c.Message().(type) {
				case *actor.Started:
					pids <- c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &chunkActor{task: task, worker: w.workers[0].state} }))
				case chunkRetried, chunkEnded:
					said <- m
				}
			}))
			defer func() {
				if err := w.system.stop(parent); err != nil {
					t.Error(err)
				}
			}()
			hear := func() any {
				select {
				case m := <-said:
					return m
				case <-time.After(10 * time.Second):
					t.Fatal("nothing is said")
					return nil
				}
			}
			if between {
				if m, ok := hear().(chunkRetried); !ok {
					t.Fatalf("the first try ends with %+v", m)
				}
			} else {
				<-trying
			}
			w.system.root.Send(<-pids, revoked{})
			m, ok := hear().(chunkEnded)
			if !ok || recovery.ClassOf(m.err) != recovery.Cancelled || task.read != 1 || node.tries(3) != 1 {
				t.Errorf("it says %+v, %d bytes read in %d tries", m, task.read, node.tries(3))
			}
		})
	}
}
