package actors

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// WorkerOptions is what a worker works with. Member, Node, Open and Plans are
// required.
type WorkerOptions struct {
	// Member is the worker as its lease names it. Free of each device is its
	// budget for arenas, which the worker holds by itself too.
	Member messages.Worker
	// Measure returns what arenas may take of devices now, besides what they
	// have, by id; devices that it leaves out keep their budgets. nil leaves
	// out all. It may block.
	Measure func() map[string]int64
	// Changed is told the member with new budgets. It must not block.
	Changed func(messages.Worker)
	Node    Node
	Open    Opener
	Plans   Plans
	// Begun fails where no leader of that epoch has been; nil believes all.
	Begun   func(ctx context.Context, epoch uint64) error
	Metrics Metrics      // nil counts nothing
	Log     *slog.Logger // nil is slog.Default
}

// Worker is a running worker actor.
type Worker struct {
	system *System
	pid    *actor.PID
	state  *worker
}

// workerID is the id of the actor of the worker with the given name.
func workerID(name string) string { return "worker/" + name }

// StartWorker starts the actors of a worker in this system. Several workers of
// different names may live in one system.
func (s *System) StartWorker(o WorkerOptions) (*Worker, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{
		WorkerOptions: o, system: s, ctx: ctx, cancel: cancel,
		life:       job.Worker{Name: o.Member.Name, Incarnation: o.Member.Incarnation},
		measuredAt: time.Now(), jobs: map[string]*heldJob{}, used: map[string]int64{}, exports: map[string]*exportTask{}, indexes: map[indexKey]*indexTask{},
	}
	// The state is the same after a restart: what the node holds is still
	// there, so what the actor knows of it must be.
	props := actor.PropsFromProducer(func() actor.Actor { return w },
		actor.WithSupervisor(restart{limit: maxPanics, log: o.Log}),
		actor.WithGuardian(restart{limit: maxPanics, log: o.Log}),
		actor.WithSenderMiddleware(s.refuseLarge))
	pid, err := s.actors.Root.SpawnNamed(props, workerID(o.Member.Name))
	if err != nil {
		cancel()
		return nil, recovery.Errorf(recovery.Usage, "worker %s: %v", o.Member.Name, err)
	}
	return &Worker{system: s, pid: pid, state: w}, nil
}

// Stop ends the worker's actors, waits for the work under way, and frees what
// the worker holds.
func (w *Worker) Stop() error {
	w.state.cancel()
	err := w.system.stop(w.pid)
	w.state.busy.Wait()
	for id := range w.state.jobs {
		if cerr := w.state.Node.Close(id); err == nil && cerr != nil {
			err = cerr
		}
	}
	return err
}

// worker is the Worker actor: it fences what comes in, knows which jobs are
// open, and has a Shard child for each arena and a Chunk child for each chunk
// in flight. A chunk hangs under the worker and not under a shard because it
// may serve several ranks at once, also ranks of other workers only.
type worker struct {
	WorkerOptions
	system *System
	life   job.Worker
	epoch  uint64 // the highest seen
	jobs   map[string]*heldJob
	used   map[string]int64 // arena bytes by device
	// exports are tasks by the export and, where they dump one, the rank.
	exports map[string]*exportTask
	indexes map[indexKey]*indexTask
	ctx     context.Context // ends with the worker
	cancel  context.CancelFunc
	busy    sync.WaitGroup // goroutines that are under way
	tick    *time.Ticker
	ticks   ticks
	// Of measure.
	measuring  bool
	measuredAt time.Time
}

// holdingEvery is how often a worker tells each job what it holds of it. What
// was accepted and stays out of it is dispatched anew: this is how a report
// that was lost on its way is noticed.
const holdingEvery = 500 * time.Millisecond

// tellHolding is the tick for it; gone is a Terminated in its turn.
type (
	tellHolding struct{}
	gone        struct{ *actor.Terminated }
)

// Receive implements actor.Actor.
func (w *worker) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		w.started(c)
	case *actor.Terminated:
		// System messages overtake the others: what the actor reported before
		// it stopped may still be in the mailbox.
		c.Send(c.Self(), gone{m})
	case gone:
		w.gone(c, m.Terminated)
	case tellHolding:
		w.ticks.heard()
		w.tellHolding(c)
		w.measure(c)
		w.Metrics.Staging(w.ctx, w.Node.Staging())
	case measured:
		w.measured(m)
	case message:
		w.command(c, m)
	case confirmed:
		w.confirmed(c, m)
	case jobOpened:
		w.jobOpened(c, m)
	case jobClosed:
		w.jobClosed(c, m)
	case chunkRetried:
		w.chunkRetried(c, m)
	case chunkEnded:
		w.chunkEnded(c, m)
	case shardPlaced:
		w.shardPlaced(c, m)
	case indexOpened:
		w.indexOpened(c, m)
	case exportEnded:
		w.exportEnded(m)
	case shardSealed:
		w.shardSealed(c, m)
	}
}

// started starts the tick and, after a restart, the children anew.
func (w *worker) started(c actor.Context) {
	if w.tick == nil {
		w.tick = time.NewTicker(holdingEvery)
		self := c.Self()
		w.goDo(func() {
			defer w.tick.Stop()
			w.ticks.run(w.tick.C, w.ctx.Done(), func() { w.system.root.Send(self, tellHolding{}) })
		})
	}
	for _, j := range w.jobs {
		clear(j.children) // they ended with the actor's last life
		for _, s := range j.shards {
			s.pid = w.spawn(c, j, &shardActor{task: s, worker: w})
		}
		for at, t := range j.chunks {
			if t.revoked {
				delete(j.chunks, at)
				continue
			}
			t.pid = w.spawn(c, j, &chunkActor{task: t, worker: w})
		}
	}
}

// spawn starts a child for a job.
func (w *worker) spawn(c actor.Context, j *heldJob, a actor.Actor) *actor.PID {
	pid := c.Spawn(actor.PropsFromProducer(func() actor.Actor { return a }, actor.WithSenderMiddleware(w.system.refuseLarge)))
	j.children[pid.Id] = pid
	return pid
}

// goDo runs f in a goroutine that Stop waits for.
func (w *worker) goDo(f func()) {
	w.busy.Add(1)
	go func() {
		defer w.busy.Done()
		f()
	}()
}

// header heads a message from this worker.
func (w *worker) header(jobID string, epoch uint64) *control.Header {
	return &control.Header{Version: control.Version, Job: jobID, Epoch: epoch, Worker: w.life.Name, Incarnation: w.life.Incarnation}
}

// command carries out a message of a coordinator, or refuses it.
func (w *worker) command(c actor.Context, m message) {
	h := m.GetHeader()
	err := w.admit(h)
	if err == nil && h.GetEpoch() > w.epoch {
		if w.Begun != nil {
			w.confirm(c, m)
			return
		}
		w.epoch = h.GetEpoch()
	}
	if n := proto.Size(m); err == nil && n > control.MaxBytes { // ours are not sent
		err = recovery.Errorf(recovery.Usage, "control message of %d bytes, at most %d are taken", n, control.MaxBytes)
	}
	if err == nil {
		err = w.dispatch(c, m)
	}
	if err != nil {
		w.refuse(c, m, c.Sender(), err)
	}
}

// refuse tells whoever sent a command why it is not carried out.
func (w *worker) refuse(c actor.Context, m message, to *actor.PID, err error) {
	id := m.GetHeader().GetJob()
	w.Metrics.Refused(w.ctx, string(recovery.ClassOf(err)))
	w.Log.Info("refused", "job", id, "type", m.ProtoReflect().Descriptor().Name(), "err", err)
	if to != nil {
		c.Request(to, &control.Refused{Header: w.header(id, w.epoch), Error: control.FromError(err)})
	}
}

// answer sends m to whoever sent the current message, if anybody waits.
func (w *worker) answer(c actor.Context, m message) {
	if to := c.Sender(); to != nil {
		c.Request(to, m)
	}
}

// dispatch carries out an admitted command. It fails with class stale where
// the command is about a job that is not open here.
func (w *worker) dispatch(c actor.Context, m message) error {
	switch m := m.(type) {
	case *control.Hello:
		out := &control.Holding{Header: w.header("", w.epoch)}
		for _, j := range w.jobs {
			out.Jobs = append(out.Jobs, j.held())
		}
		w.answer(c, out)
		return nil
	case *control.OpenIndex:
		w.openIndex(c, m)
		return nil
	case *control.OpenJob:
		w.openJob(c, m)
		return nil
	case *control.CloseJob:
		w.closeJob(c, m)
		return nil
	case *control.DumpRank, *control.ExportModel, *control.EndExport:
		return w.export(c, m)
	}
	h := m.GetHeader()
	j := w.jobs[h.GetJob()]
	if j == nil || j.state != jobIsOpen || j.spec.Epoch != h.GetEpoch() {
		return recovery.Errorf(recovery.Stale, "job %s of epoch %d is not open at worker %s", h.GetJob(), h.GetEpoch(), w.life.Name)
	}
	switch m := m.(type) {
	case *control.Place:
		w.place(c, j, m)
	case *control.LoadChunk:
		return w.load(c, j, m)
	case *control.Revoke:
		w.revoke(c, j, m)
	case *control.Seal:
		return w.seal(c, j, m)
	case *control.Free:
		w.free(c, j, m)
	default:
		return recovery.Errorf(recovery.Unsupported, "worker %s has no use for %s", w.life.Name, m.ProtoReflect().Descriptor().Name())
	}
	return nil
}

// report sends m to the job's coordinator. It may be lost on the way: the
// coordinator then misses it in Holding, or asks again.
func (w *worker) report(c actor.Context, j *heldJob, m message) {
	if j.boss != nil {
		c.Request(j.boss, m)
	}
}

// tellHolding tells each job's coordinator what this worker has of it.
func (w *worker) tellHolding(c actor.Context) {
	for _, j := range w.jobs {
		if j.state == jobIsOpen {
			w.report(c, j, &control.Holding{Header: w.header(j.spec.ID, j.spec.Epoch), Jobs: []*control.JobHeld{j.held()}})
		}
	}
}

// gone handles the end of an actor that the worker watches: a child that had
// not reported its outcome panicked too often; a Job that stopped waits for no
// report. A coordinator whose connection broke is another matter: the worker
// keeps what it has until that one or another asks.
func (w *worker) gone(c actor.Context, m *actor.Terminated) {
	if w.ctx.Err() != nil {
		return // the children end with the worker
	}
	for _, j := range w.jobs {
		delete(j.children, m.Who.Id)
		switch broke := m.Why == actor.TerminatedReason_AddressTerminated; {
		case samePID(j.boss, m.Who) && broke:
			w.Log.Warn("connection to the coordinator broke, keeping what is placed", "job", j.spec.ID)
		case samePID(j.boss, m.Who):
			j.boss = nil
		}
		if j.state != jobIsOpen {
			continue
		}
		for _, t := range j.chunks {
			if samePID(t.pid, m.Who) {
				w.chunkEnded(c, chunkEnded{task: t, err: t.panicked})
				return
			}
		}
		for _, s := range j.shards {
			if samePID(s.pid, m.Who) {
				w.shardGone(c, s)
				return
			}
		}
	}
}

// noMetrics counts nothing.
type noMetrics struct{}

func (noMetrics) Chunk(context.Context, int64, time.Duration, string) {}
func (noMetrics) Retry(context.Context, string)                       {}
func (noMetrics) Arena(context.Context, string, int64)                {}
func (noMetrics) Placed(context.Context, int64)                       {}
func (noMetrics) JobActive(context.Context, int64)                    {}
func (noMetrics) Staging(context.Context, int64)                      {}
func (noMetrics) Refused(context.Context, string)                     {}
