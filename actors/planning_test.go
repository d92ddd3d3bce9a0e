package actors

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
)

// TestPlanAnswerLost: a worker's answer that is lost on its way is asked for
// again, and a checkpoint that is being opened is not opened a second time.
func TestPlanAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	asked := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(asked) })
	var opened atomic.Int64
	w.opening = func() { opened.Add(1); <-asked }
	var questions atomic.Int64
	// The road to w0, on which the answer to the first question is lost.
	road, err := w.system.root.SpawnNamed(actor.PropsFromFunc(func(c actor.Context) {
		m, ok := c.Message().(*control.OpenIndex)
		if !ok {
			return
		}
		m = proto.Clone(m).(*control.OpenIndex)
		m.Header.Worker = "w0"
		switch questions.Add(1) {
		case 1:
			c.Send(workerPID(w.members[0]), m)
		default:
			c.RequestWithCustomSender(workerPID(w.members[0]), m, c.Sender())
			// The worker takes one message after another: it has this one.
			if err := c.RequestFuture(workerPID(w.members[0]), &control.Hello{Header: m.Header}, 5*time.Second).Wait(); err != nil {
				t.Error(err)
			}
			goOn()
		}
	}), workerID("road"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.system.stop(road); err != nil {
			t.Error(err)
		}
	}()
	p := planner{system: w.system, plans: w.mem, epoch: 1}
	digest, err := p.index(t.Context(), "j", "file:///m", messages.Worker{Name: "road", Incarnation: 1, Address: w.system.Address()})
	if err != nil || digest == "" {
		t.Errorf("digest %q: %v", digest, err)
	}
	// On a machine that is very busy it is asked a third time, too late to join.
	if n := opened.Load(); n < 1 || n >= questions.Load() {
		t.Errorf("opened %d times, asked %d times", n, questions.Load())
	}
}
