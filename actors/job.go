package actors

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// Times of a Job.
const (
	jobTick     = 250 * time.Millisecond // progress, records, what was not answered
	recordEvery = 500 * time.Millisecond // between records of an unchanged state
	openAgain   = time.Second            // an unanswered OpenJob is sent again
	openWait    = 10 * time.Second       // for workers to open the job, once one has
	closeWait   = 3 * time.Second        // for workers to free what a lost job held
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

	ctx    context.Context // carries the span `load`; ends with the actor
	cancel context.CancelFunc
	span   trace.Span

	phase     jobPhase
	workers   map[string]*jobWorker
	planned   planned
	planFails int
	machine   *job.Job
	opened    time.Time // when the first worker had opened the job
	since     time.Time // submission, for patience before there is a machine
	wake      *time.Timer
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
	err    error // why it could not open the job
	asked  time.Time
	closed bool
	// What it did for the job so far.
	bytesRead  int64
	chunksDone int
}

// What a Coordinator tells its Jobs.
type (
	workerUp      struct{ worker messages.Worker }
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
	case workerUp:
		a.workerUp(c, m.worker)
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
	a.since = a.rec.job.Submitted
	self, root := c.Self(), a.system.root
	stop := a.ctx.Done()
	tick := time.NewTicker(jobTick)
	a.busy.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				root.Send(self, tickJob{})
			case <-stop:
				return
			}
		}
	})
	a.emit(job.Emit{Kind: progress.Submitted, Reason: "load of " + a.req.URI + " as " + a.rec.job.Model, Rank: -1, Chunk: -1})
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

// beginPlan asks the workers that are there for a plan.
func (a *jobActor) beginPlan(c actor.Context) {
	if a.phase != phasePlanning || a.report.planning {
		return
	}
	var ask []messages.Worker
	for _, w := range a.inOrder() {
		if w.up {
			ask = append(ask, w.Worker)
		}
	}
	if len(ask) == 0 {
		a.setState(messages.StateWaiting, "no worker has joined yet")
		return
	}
	a.report.planning = true
	a.setState(messages.StatePlanning, "")
	self, root := c.Self(), a.system.root
	p := planner{a.system, a.o.Plans, a.o.Epoch}
	ctx, id, uri, options := a.ctx, a.id, a.req.URI, a.req.Options
	a.busy.Go(func() { root.Send(self, p.plan(ctx, id, uri, options, ask)) })
}

// havePlan goes on to opening the job at every worker. A plan that failed for
// now is asked for again at the next tick, as often as the strategy allows.
func (a *jobActor) havePlan(c actor.Context, m planned) {
	if a.phase != phasePlanning {
		return
	}
	if m.err != nil {
		a.planFails++
		if a.strategy.ActionFor(m.err, a.planFails) == recovery.ActionRetry {
			a.report.planning = false
			return
		}
		a.end(c, job.Failed, m.err)
		return
	}
	a.planned = m
	a.phase = phaseOpening
	a.machine = job.New(m.plan, job.Options{Strategy: a.strategy, Patience: a.o.Patience})
	a.rec.planned(m.plan)
	a.emit(job.Emit{Kind: progress.Planned, Rank: -1, Chunk: -1, Reason: planText(m.plan)})
	a.setState(messages.StateWaiting, "")
	a.record(c)
	a.openAll(c)
}

// openAll asks every worker that has not done so to open the job.
func (a *jobActor) openAll(c actor.Context) {
	if a.planned.plan == nil || a.phase > phaseDriving {
		return
	}
	for _, w := range a.inOrder() {
		if !w.up || w.opened || w.err != nil || time.Since(w.asked) < openAgain {
			continue
		}
		w.asked = time.Now()
		a.send(c, w, &control.OpenJob{
			Header: commandHeader(a.id, a.o.Epoch, w.Worker), Uri: a.req.URI, IndexDigest: a.planned.index,
			Options: control.FromOptions(a.req.Options), PlanDigest: a.planned.plan.Digest(),
			Strategy: control.FromStrategy(a.strategy), LimitRate: a.req.LimitRate, Validate: a.req.Validate,
		})
	}
}

// jobOpened counts a worker in, or out.
func (a *jobActor) jobOpened(c actor.Context, w *jobWorker, m *control.JobOpened) {
	if w.opened || a.phase > phaseDriving {
		return
	}
	if err := m.GetError().Recover(); err != nil {
		w.err = err
		a.o.Log.Warn("worker cannot open the job", "job", a.id, "worker", w.Name, "err", err)
	} else {
		w.opened = true
		if a.opened.IsZero() {
			a.opened = time.Now()
		}
	}
	if a.phase == phaseDriving && w.opened {
		a.drive(c, job.WorkerUp{Worker: lifeOf(w.Worker)})
		return
	}
	a.maybeStart(c)
}

// maybeStart starts the machine when every worker that is up has opened the
// job, or has had the time to.
func (a *jobActor) maybeStart(c actor.Context) {
	if a.phase != phaseOpening {
		return
	}
	var failed error
	waiting, opened := 0, 0
	for _, w := range a.workers {
		switch {
		case w.opened:
			opened++
		case w.err != nil:
			failed = w.err
		case w.up:
			waiting++
		}
	}
	if waiting > 0 && (opened == 0 || time.Since(a.opened) < openWait) {
		return
	}
	switch {
	case opened > 0:
		a.phase = phaseDriving
		a.drive(c, nil)
	case failed != nil:
		a.end(c, job.Failed, failed)
	}
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
		a.setState(messages.State(a.machine.Status()), "")
		a.sayStage()
	}
}

// machineUp says what a worker has for this job. The ledger's lock is held.
func (a *jobActor) machineUp(w *jobWorker) job.WorkerUp {
	return job.WorkerUp{
		Worker: lifeOf(w.Worker),
		Rooms:  a.ledger.rooms(a.id, w.Worker, a.wants),
		Window: window(w.Staging),
	}
}

// wants reports whether a device is of the kind that was asked for.
func (a *jobActor) wants(device string) bool {
	d := a.req.Device
	return d == "" || d == "auto" || d == device || d == "cuda" && strings.HasPrefix(device, "cuda:")
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
			return &control.LoadChunk{Header: h, Ref: control.FromRef(cmd.Ref), Dests: a.dests(cmd.Dests)}
		})
	case job.Emit:
		switch cmd.Kind {
		case progress.ReadyEvent, progress.Failed, progress.Cancelled:
			a.final = append(a.final, cmd) // not before it is written down
		default:
			a.emit(cmd)
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
