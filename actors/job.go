package actors

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
)

// Times of a Job.
const (
	jobTick     = 250 * time.Millisecond  // progress, records, what was not answered
	recordEvery = 500 * time.Millisecond  // between records of an unchanged state
	openAgain   = time.Second             // an unanswered OpenJob is sent again
	openTries   = 4                       // for one worker to open the job
	openWait    = 10 * time.Second        // for workers to open the job, once one has
	joinWait    = time.Second             // for a worker that has what is required, while others lack it: a new leader hears of them one by one
	closeWait   = 1200 * time.Millisecond // for workers to free what an ended job held
	holderWait  = 3 * time.Second         // for workers of a job that was taken over: a lease and some
)

// jobActor is the Job actor: one load. It has the checkpoint opened and
// planned, opens the job at the workers, and then is the driver of job.Job:
// events in, commands out. Everything it knows of the outside comes as a
// message; what blocks (planning, the store) runs in goroutines that answer
// by message.
type jobActor struct {
	o        CoordinatorOptions
	system   *System
	ledger   *ledger
	busy     *sync.WaitGroup // the coordinator's: it waits for the goroutines
	id       string
	req      messages.LoadRequest
	strategy recovery.Strategy
	needs    require.Requirements // the request's, and the model's once they are known

	ctx    context.Context // carries the span `load`; ends with the actor
	cancel context.CancelFunc
	span   trace.Span

	phase     jobPhase
	workers   map[string]*jobWorker
	planned   planned
	planFails int
	machine   *job.Job
	opened    time.Time    // when the first worker had opened the job
	since     time.Time    // submission, for patience before there is a machine
	began     time.Time    // when this actor did
	resumed   time.Time    // when this leader took the job over, zero for its own
	holders   []string     // workers that held ranks for the driver before
	before    []job.Hold   // where that one had the ranks
	repairs   *StoredModel // what it repairs, as it was; nil for a load
	wake      *time.Timer
	ticks     ticks
	rec       recorder
	report    reporter
	closing   time.Time // when CloseJob was sent
	final     []job.Emit
}

// jobPhase is what a Job actor is at.
type jobPhase uint8

const (
	phasePlanning jobPhase = iota // waiting for a worker, or for the plan
	phaseOpening                  // workers open the job
	phaseDriving                  // the machine runs
	phaseClosing                  // the workers free what they hold
	phaseEnding                   // the final record is being written
)

// jobWorker is a worker as a job sees it.
type jobWorker struct {
	messages.Worker
	up     bool // reachable, as far as is known
	opened bool
	err    error // why it could not open the job, or must not be asked to
	asked  time.Time
	fails  int  // answers that it could not open the job
	knows  bool // it was asked to open the job, by this leader or one before
	closed bool
	lends  []int      // what it can copy from arenas of other jobs
	held   []job.Held // what it had of the job when it opened it, until the machine knows
	// What it did for the job so far.
	bytesRead  int64
	chunksDone int
}

// newJobWorker takes a worker in. One that lacks what the job requires is
// never asked for anything.
func newJobWorker(m messages.Worker, r require.Requirements) *jobWorker {
	w := &jobWorker{Worker: m}
	w.check(r)
	return w
}

// check notes what the worker lacks of what the job requires.
func (w *jobWorker) check(r require.Requirements) {
	if err := r.Check(w.Machine()); err != nil {
		w.err = fmt.Errorf("worker %s: %w", w.Name, err)
	}
}

// What a Coordinator tells its Jobs.
type (
	workerUp struct {
		worker messages.Worker
		open   map[string]bool // jobs that it has open, by id; nil: as before
	}
	workerRefused struct {
		worker messages.Worker
		err    error
	}
	workerSuspect struct {
		worker job.Worker
		reason string
	}
	workerLost struct {
		worker job.Worker
		reason string
	}
	cancelJob    struct{ reason string }
	roomsChanged struct{}
)

// wakeUp is the Tick that the machine asked for; tickJob the actor's own.
type (
	wakeUp  struct{}
	tickJob struct{}
)

// Receive implements actor.Actor.
func (a *jobActor) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		a.started(c)
	case *actor.Stopping:
		a.stopping()
	case tickJob:
		a.ticks.heard()
		a.tick(c)
	case wakeUp:
		a.drive(c, job.Tick{})
	case planned:
		a.havePlan(c, m)
	case recorded:
		a.recorded(c, m)
	case cancelJob:
		a.cancelled(c, m.reason)
	case roomsChanged:
		a.roomsChanged(c)
	case storeLost:
		a.storeLost(c)
	case rewritten:
		m.models[a.rec.job.Model].apply(&a.rec.modelRevision)
	case workerUp:
		a.workerUp(c, m)
	case workerRefused:
		a.workers[m.worker.Name] = &jobWorker{Worker: m.worker, err: m.err}
	case workerSuspect:
		a.workerSuspect(c, m)
	case workerLost:
		a.workerLost(c, m)
	case message:
		a.heard(c, m)
	}
}

// started begins with the record of the submission, and the plan.
func (a *jobActor) started(c actor.Context) {
	a.since, a.began = a.rec.job.Submitted, time.Now()
	if a.repairs != nil {
		a.since = a.began
	}
	self, root := c.Self(), a.system.root
	stop := a.ctx.Done()
	tick := time.NewTicker(jobTick)
	a.busy.Go(func() {
		defer tick.Stop()
		a.ticks.run(tick.C, stop, func() { root.Send(self, tickJob{}) })
	})
	if a.repairs == nil {
		a.emit(job.Emit{Kind: progress.Submitted, Reason: "load of " + a.req.URI + " as " + a.rec.job.Model, Rank: -1, Chunk: -1})
	}
	a.record(c)
	a.beginPlan(c)
}

// stopping ends what the actor has under way. A job that is stopped before
// its end (the coordinator goes down) stays in the store as it is.
func (a *jobActor) stopping() {
	a.cancel()
	if a.wake != nil {
		a.wake.Stop()
	}
	a.span.End()
}

// drive steps the machine by an event, nil to start it, and carries out what
// it asks for. Rooms are asked for and reserved under one lock.
func (a *jobActor) drive(c actor.Context, e job.Event) {
	if a.phase != phaseDriving {
		return
	}
	now := time.Now()
	a.ledger.Lock()
	var commands []job.Command
	switch e := e.(type) {
	case nil:
		var ups []job.WorkerUp
		for _, w := range a.inOrder() {
			if w.opened && w.up {
				ups = append(ups, a.machineUp(w))
			}
		}
		commands = a.machine.Start(now, ups)
	case job.WorkerUp:
		commands = a.machine.Step(now, a.machineUp(a.workers[e.Worker.Name]))
	default:
		commands = a.machine.Step(now, e)
	}
	for _, cmd := range commands {
		switch cmd := cmd.(type) {
		case job.Place:
			a.ledger.reserve(a.id, cmd.Hold, cmd.Bytes)
		case job.Free:
			a.ledger.release(a.id, cmd.Hold)
		}
	}
	a.ledger.Unlock()
	for _, cmd := range commands {
		a.perform(c, cmd)
	}
	if a.phase == phaseDriving {
		a.setState(messages.State(a.machine.Status()), cmp.Or(text(a.machine.Missing()), a.wasLost()))
		a.sayStage()
	}
}

// machineUp says what a worker has for this job. The ledger's lock is held.
func (a *jobActor) machineUp(w *jobWorker) job.WorkerUp {
	up := job.WorkerUp{
		Worker: lifeOf(w.Worker),
		Rooms:  a.ledger.rooms(a.id, w.Worker, a.wants),
		Window: window(w.Staging),
		Held:   w.held,
		Lends:  w.lends,
	}
	w.held = nil
	return up
}

// window is how many stored bytes a worker is given at once: enough to keep it
// busy, little enough that a lost worker loses little.
func window(staging int64) int64 {
	const most = 64 << 20
	if staging <= 0 {
		return most
	}
	return min(staging/2, most)
}

// perform carries out a command of the machine. One for a worker that is gone
// is dropped: the machine hears of the loss.
func (a *jobActor) perform(c actor.Context, cmd job.Command) {
	switch cmd := cmd.(type) {
	case job.Place:
		a.to(c, cmd.Hold.Worker, func(h *control.Header) message {
			return &control.Place{Header: h, Hold: control.FromHold(cmd.Hold), Bytes: cmd.Bytes}
		})
	case job.Seal:
		a.to(c, cmd.Hold.Worker, func(h *control.Header) message {
			return &control.Seal{Header: h, Hold: control.FromHold(cmd.Hold)}
		})
	case job.Free:
		a.to(c, cmd.Hold.Worker, func(h *control.Header) message {
			return &control.Free{Header: h, Hold: control.FromHold(cmd.Hold)}
		})
	case job.Revoke:
		a.to(c, cmd.Ref.Worker, func(h *control.Header) message {
			return &control.Revoke{Header: h, Ref: control.FromRef(cmd.Ref)}
		})
	case job.Load:
		a.to(c, cmd.Ref.Worker, func(h *control.Header) message {
			m := &control.LoadChunk{Header: h, Ref: control.FromRef(cmd.Ref), Dests: a.dests(cmd.Dests)}
			if cmd.From != nil {
				m.From = control.FromHold(*cmd.From)
			}
			return m
		})
	case job.Emit:
		switch cmd.Kind {
		case progress.ReadyEvent, progress.Failed, progress.Cancelled:
			a.final = append(a.final, cmd) // not before it is written down
		default:
			if cmd.Kind != progress.RankSealed || !a.kept(cmd.Rank) {
				a.emit(cmd)
			}
		}
	case job.Wake:
		self, root := c.Self(), a.system.root
		if a.wake != nil {
			a.wake.Stop()
		}
		a.wake = time.AfterFunc(time.Until(cmd.At), func() { root.Send(self, wakeUp{}) })
	case job.End:
		a.end(c, cmd.State, cmd.Err)
	}
}

// dests says where the workers of holds receive pieces.
func (a *jobActor) dests(holds []job.Hold) []*control.Dest {
	out := make([]*control.Dest, len(holds))
	for i, h := range holds {
		out[i] = &control.Dest{Hold: control.FromHold(h), Worker: h.Worker.Name, Incarnation: h.Worker.Incarnation}
		if w := a.workers[h.Worker.Name]; w != nil {
			out[i].Transfer = w.Transfer
		}
	}
	return out
}

// to sends a command to a worker, if that life of it is there.
func (a *jobActor) to(c actor.Context, life job.Worker, command func(*control.Header) message) {
	if w := a.workers[life.Name]; w != nil && lifeOf(w.Worker) == life {
		a.send(c, w, command(commandHeader(a.id, a.o.Epoch, w.Worker)))
	}
}

func (a *jobActor) send(c actor.Context, w *jobWorker, m message) { c.Request(workerPID(w.Worker), m) }
