package actors

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// shardTask is an arena that a worker holds or makes. The Worker owns it.
type shardTask struct {
	job     *heldJob
	hold    job.Hold
	bytes   int64
	pid     *actor.PID
	ctx     context.Context // carries the rank's span
	span    trace.Span
	placed  bool
	asked   bool // to seal
	freeing bool
	digest  *control.Sealed // the answer to Seal, once there is one

	panicked error // the last panic, set before the actor's own
}

// end ends the rank's span.
func (t *shardTask) end(err error) {
	if err != nil {
		t.span.SetStatus(codes.Error, err.Error())
	}
	t.span.End()
}

// What a Shard tells its Worker.
type (
	shardPlaced struct {
		task *shardTask
		err  error
	}
	shardSealed struct {
		task   *shardTask
		report loader.SealReport
		err    error
	}
)

// shardActor is the Shard actor: one rank's arena at a worker. It makes, seals and
// frees it, one after the other, each in a goroutine, since prefaulting and
// checking take as long as a load. Which pieces are there is the node's to
// know, which grants the tickets.
type shardActor struct {
	task   *shardTask
	worker *worker
	busy   bool
	queue  []func(actor.Context)
}

// What a Worker asks of a Shard.
type (
	sealShard struct{}
	freeShard struct{}
)

// stepped ends a step of the shard; then is sent to the parent.
type stepped struct {
	then  any
	stop  bool
	panic any
}

// Receive implements actor.Actor.
func (a *shardActor) Receive(c actor.Context) {
	t, w := a.task, a.worker
	switch m := c.Message().(type) {
	case *actor.Started:
		if !t.placed {
			a.step(c, func() stepped {
				return stepped{then: shardPlaced{t, w.Node.Place(t.ctx, t.job.spec.ID, t.hold)}}
			})
		} else if t.asked && t.digest == nil { // restarted while it was sealing
			c.Send(c.Self(), sealShard{})
		}
	case sealShard:
		a.step(c, func() stepped {
			r, err := w.Node.Seal(t.ctx, t.job.spec.ID, t.hold)
			return stepped{then: shardSealed{t, r, err}}
		})
	case freeShard:
		a.step(c, func() stepped {
			if err := w.Node.Free(t.job.spec.ID, t.hold); err != nil {
				w.Log.Error("arena was not freed", "job", t.job.spec.ID, "rank", t.hold.Rank, "err", err)
			}
			return stepped{stop: true}
		})
	case stepped:
		a.stepped(c, m)
	}
}

// step runs f in a goroutine, after the steps before it.
func (a *shardActor) step(c actor.Context, f func() stepped) {
	if a.busy {
		a.queue = append(a.queue, func(c actor.Context) { a.step(c, f) })
		return
	}
	a.busy = true
	self, w := c.Self(), a.worker
	w.jobDo(a.task.job, func() {
		var out stepped
		defer func() {
			if p := recover(); p != nil {
				out.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			w.system.root.Send(self, out)
		}()
		out = f()
	})
}

func (a *shardActor) stepped(c actor.Context, m stepped) {
	a.busy = false
	if m.panic != nil {
		a.queue = nil
		a.task.panicked = recovery.Errorf(recovery.Internal, "rank %d: the data path panicked: %.200v", a.task.hold.Rank, m.panic)
		panic(m.panic) // a bug: the supervisor restarts this actor, which tries again
	}
	if m.then != nil {
		c.Send(c.Parent(), m.then)
	}
	if m.stop {
		c.Stop(c.Self())
		return
	}
	if len(a.queue) > 0 {
		next := a.queue[0]
		a.queue = a.queue[1:]
		next(c)
	}
}

// place makes an arena. One that is asked for twice is there once; one over
// the device's budget is refused.
func (w *worker) place(c actor.Context, j *heldJob, m *control.Place) {
	hold := m.Hold.Job(w.life)
	key := arena{hold.Rank, hold.Generation}
	if s := j.shards[key]; s != nil {
		if s.placed {
			w.reportPlaced(c, s, nil)
		}
		return
	}
	_, span := tracer().Start(contextOf(j.ctx, c), "rank", trace.WithAttributes(
		attribute.String("gantry.job", j.spec.ID), attribute.Int("gantry.rank", hold.Rank),
		attribute.String("gantry.worker", w.life.Name), attribute.String("gantry.device", hold.Device)))
	s := &shardTask{job: j, hold: hold, bytes: m.GetBytes(), ctx: trace.ContextWithSpan(j.ctx, span), span: span}
	if err := w.roomFor(hold.Device, s.bytes); err != nil {
		s.end(err)
		w.reportPlaced(c, s, err)
		return
	}
	w.use(hold.Device, s.bytes)
	j.shards[key] = s
	s.pid = w.spawn(c, j, &shardActor{task: s, worker: w})
}

// use notes memory of a device that is taken (bytes above 0) or free again.
func (w *worker) use(device string, bytes int64) {
	w.used[device] += bytes
	w.Metrics.Arena(w.ctx, device, bytes)
}

// roomFor checks the budget of a device.
func (w *worker) roomFor(device string, bytes int64) error {
	for _, d := range w.Member.Devices {
		if d.ID != device {
			continue
		}
		if left := d.Free - w.used[device]; bytes > left {
			return recovery.Errorf(recovery.OutOfCapacity, "worker %s has %d of %d bytes left on %s, %d are needed", w.life.Name, left, d.Free, device, bytes)
		}
		return nil
	}
	return recovery.Errorf(recovery.OutOfCapacity, "worker %s has no device %s", w.life.Name, device)
}

func (w *worker) shardPlaced(c actor.Context, m shardPlaced) {
	if m.task.job.state != jobIsOpen {
		return
	}
	m.task.placed = m.err == nil
	w.reportPlaced(c, m.task, m.err)
	if m.err != nil {
		w.drop(c, m.task, m.err)
	}
}

func (w *worker) reportPlaced(c actor.Context, s *shardTask, err error) {
	j := s.job
	w.report(c, j, &control.Placed{Header: w.header(j.spec.ID, j.spec.Epoch), Hold: control.FromHold(s.hold), Error: control.FromError(err)})
}

// drop forgets an arena that was not made, or was freed.
func (w *worker) drop(c actor.Context, s *shardTask, err error) {
	delete(s.job.shards, arena{s.hold.Rank, s.hold.Generation})
	w.use(s.hold.Device, -s.bytes)
	s.end(err)
	if err != nil {
		c.Stop(s.pid)
	}
}

// seal has a rank checked. It fails with class stale where the arena is not
// there.
func (w *worker) seal(c actor.Context, j *heldJob, m *control.Seal) error {
	hold := m.Hold.Job(w.life)
	s := j.shards[arena{hold.Rank, hold.Generation}]
	if s == nil {
		return recovery.Errorf(recovery.Stale, "worker %s does not hold generation %d of rank %d", w.life.Name, hold.Generation, hold.Rank)
	}
	if s.digest != nil { // asked for twice, perhaps by another leader
		again := proto.CloneOf(s.digest)
		again.Header = w.header(j.spec.ID, j.spec.Epoch)
		w.report(c, j, again)
		return nil
	}
	if !s.asked {
		s.asked = true
		c.Send(s.pid, sealShard{})
	}
	return nil
}

func (w *worker) shardSealed(c actor.Context, m shardSealed) {
	s, j := m.task, m.task.job
	if j.state != jobIsOpen {
		return
	}
	out := &control.Sealed{
		Header: w.header(j.spec.ID, j.spec.Epoch), Hold: control.FromHold(s.hold), Digest: m.report.Digest[:],
		Validation: fromValidation(m.report.Validation), PeakStaging: w.Node.PeakStaging(), Error: control.FromError(m.err),
	}
	s.asked = m.err == nil // after a failure it may be asked for again
	if m.err == nil {
		s.digest = out
	}
	s.end(m.err)
	w.report(c, j, out)
}

// free gives an arena back when what it does is done.
func (w *worker) free(c actor.Context, j *heldJob, m *control.Free) {
	hold := m.Hold.Job(w.life)
	if s := j.shards[arena{hold.Rank, hold.Generation}]; s != nil && !s.freeing {
		s.freeing = true
		c.Send(s.pid, freeShard{})
	}
}

// shardGone handles the end of a Shard: its arena was freed, or it panicked
// too often.
func (w *worker) shardGone(c actor.Context, s *shardTask) {
	switch {
	case s.freeing:
		w.drop(c, s, nil)
	case !s.placed:
		w.reportPlaced(c, s, s.panicked)
		w.drop(c, s, s.panicked)
	default:
		w.shardSealed(c, shardSealed{task: s, err: s.panicked})
	}
}
