package actors

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// CoordinatorOptions is what a coordinator works with. Store, Plans and
// Publish are required.
type CoordinatorOptions struct {
	Name    string // of this coordinator, as progress shows it
	Epoch   uint64 // of its leadership: its lease key's revision
	Version string // of this release; workers of another one are not used
	Store   Store
	Plans   Plans
	Publish Publisher
	// Patience is how long a job waits for room, or for a first worker; 0 is
	// job.DefaultPatience.
	Patience time.Duration
	// RepairWait is how long lost ranks of a resident model wait for room before
	// the model is given up, unless a copy of it is whole; 0 is
	// DefaultRepairWait, less than 0 gives it up at once.
	RepairWait time.Duration
	Log        *slog.Logger // nil is slog.Default
}

// Coordinator is a running coordinator actor. Its methods answer the API and
// may be called from several goroutines.
type Coordinator struct {
	system *System
	pid    *actor.PID
	state  *coordinator
}

// coordinatorID is the id of the coordinator's actor; jobs are its children.
const coordinatorID = "coordinator"

// StartCoordinator starts the coordinator of an epoch: it reads what jobs and
// models there are, starts the jobs anew that had not ended, and then waits to
// be told of workers and asked for loads.
func (s *System) StartCoordinator(ctx context.Context, o CoordinatorOptions) (*Coordinator, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	jobs, err := o.Store.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	models, err := o.Store.Models(ctx)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	a := &coordinator{
		o: o, system: s, ctx: life, cancel: cancel, ledger: &ledger{},
		members: map[string]*member{}, jobs: map[string]*jobEntry{}, models: map[string]*StoredModel{}, exports: map[string]*exportRun{},
		stored: jobs, busy: &sync.WaitGroup{},
	}
	for i := range models {
		a.models[models[i].Name] = &models[i]
	}
	props := actor.PropsFromProducer(func() actor.Actor { return a },
		actor.WithSupervisor(stopOnPanic(o.Log)),
		actor.WithGuardian(restart{limit: maxPanics, log: o.Log}),
		actor.WithSenderMiddleware(s.refuseLarge))
	pid, err := s.actors.Root.SpawnNamed(props, coordinatorID)
	if err != nil {
		cancel()
		return nil, recovery.Errorf(recovery.Internal, "start the coordinator: %v", err)
	}
	return &Coordinator{system: s, pid: pid, state: a}, nil
}

// Stop ends the coordinator's actors and waits for what they have under way. Its jobs stay as they are: the workers
// keep what they have, and the records are in the store.
func (c *Coordinator) Stop() error {
	c.state.cancel()
	err := c.system.stop(c.pid)
	c.state.busy.Wait()
	return err
}

// MemberUp tells of a worker whose lease is there, or says something new.
func (c *Coordinator) MemberUp(w messages.Worker) { c.system.root.Send(c.pid, memberUp{w}) }

// MemberLost tells that the lease of a life of a worker has ended.
func (c *Coordinator) MemberLost(name string, incarnation uint64, reason string) {
	c.system.root.Send(c.pid, memberLost{job.Worker{Name: name, Incarnation: incarnation}, reason})
}

// coordinator is the Coordinator actor: who is a member and within reach, which
// jobs there are, what is resident. It has a Job child for each load.
type coordinator struct {
	o       CoordinatorOptions
	system  *System
	ctx     context.Context
	cancel  context.CancelFunc
	ledger  *ledger
	members map[string]*member
	jobs    map[string]*jobEntry
	models  map[string]*StoredModel
	exports map[string]*exportRun // by id
	stored  []StoredJob           // of the store, until started
	ticking bool
	ticks   ticks
	began   time.Time       // to lead
	checked bool            // whether the workers of resident models are there
	repairs int             // begun so far
	busy    *sync.WaitGroup // goroutines of the coordinator and its jobs
}

// member is a worker with a lease.
type member struct {
	messages.Worker
	refused error // why it is never used: it runs another release
	pid     *actor.PID
	up      bool // it has answered Hello, and its connection has not broken since
}

// jobEntry is a job, running or ended.
type jobEntry struct {
	job      messages.Job
	revision uint64
	pid      *actor.PID    // nil when it has ended
	after    []func()      // what waits for its end
	written  chan struct{} // closed when a last record that conclude has to write is; nil: there is none
}

// What a coordinator hears from outside of its jobs.
type (
	memberUp   struct{ worker messages.Worker }
	memberLost struct {
		worker job.Worker
		reason string
	}
	tickMembers struct{}
	// call is a question of the API: it runs in the actor.
	call  func(c actor.Context)
	reply struct {
		value any
		err   error
	}
)

// helloEvery is how often members out of reach are tried.
const helloEvery = 500 * time.Millisecond

// memberWait is how long a new leader waits to hear of the workers of resident
// models: a lease, and some.
const memberWait = 5 * time.Second

// Receive implements actor.Actor.
func (a *coordinator) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		a.started(c)
	case *actor.Terminated:
		c.Send(c.Self(), gone{m}) // after what the actor said before it stopped
	case gone:
		a.terminated(c, m.Terminated)
	case tickMembers:
		a.ticks.heard()
		a.greetAll(c)
	case memberUp:
		a.memberUp(c, m.worker)
	case memberLost:
		a.memberLost(c, m)
	case call:
		m(c)
	case jobChanged:
		a.jobChanged(m.job)
	case jobOver:
		a.jobOver(c, m)
	case exportOver:
		a.exportOver(m)
	case storeLost:
		a.storeLost(c)
	case rewritten:
		a.rewritten(c, m)
	case unloaded:
		a.unloaded(c, m)
	case retired:
		a.retired(c, m)
	case *control.Holding:
		a.holding(c, m)
	case *control.Refused:
		a.o.Log.Warn("worker refused", "worker", m.GetHeader().GetWorker(), "err", m.GetError().Recover())
	}
}

// started takes up what the store has.
func (a *coordinator) started(c actor.Context) {
	if !a.ticking {
		a.ticking = true
		self, tick := c.Self(), time.NewTicker(helloEvery)
		a.busy.Go(func() {
			defer tick.Stop()
			a.ticks.run(tick.C, a.ctx.Done(), func() { a.system.root.Send(self, tickMembers{}) })
		})
	}
	for _, s := range a.stored {
		switch m := a.modelOf(s.Job.Job); {
		case s.State.Final() || s.Request == nil:
			a.jobs[s.Job.Job] = &jobEntry{job: s.Job, revision: s.Revision}
		case m != nil && m.State != messages.StateRepairing:
			a.conclude(s, m)
		default:
			a.resume(c, s, m)
		}
	}
	a.stored = nil
	a.repairAll(c)
	a.began = time.Now()
}

// resume goes on with a job that an earlier coordinator had not brought to its
// end. It is planned again, which gives the same plan, and the workers say what
// they hold of it. model is what it repairs, nil for a load.
func (a *coordinator) resume(c actor.Context, s StoredJob, model *StoredModel) {
	rec := s.Job
	rec.Epoch, rec.State, rec.Why = a.o.Epoch, messages.StatePlanning, ""
	if model == nil {
		rec.Stages = nil
	}
	if err := a.spawn(c, rec, s.Revision, *s.Request, context.Background(), model); err != nil {
		a.o.Log.Error("job cannot be resumed", "job", s.Job.Job, "err", err)
		a.jobs[s.Job.Job] = &jobEntry{job: s.Job, revision: s.Revision}
		return
	}
	a.event(s.Job.Job, s.Job.Model, progress.CoordinatorChanged, "coordinator "+a.o.Name+" leads now and goes on with the job")
}

// memberUp takes a worker in and says hello; it is of use when it answers.
func (a *coordinator) memberUp(c actor.Context, w messages.Worker) {
	old := a.members[w.Name]
	switch {
	case old != nil && old.Incarnation > w.Incarnation:
		return
	case old != nil && old.Incarnation == w.Incarnation:
		old.Worker = w
		if old.up {
			a.tellJobs(c, workerUp{worker: w})
		}
		return
	case old != nil:
		a.memberLost(c, memberLost{lifeOf(old.Worker), "it was restarted"})
	}
	m := &member{Worker: w, pid: workerPID(w)}
	a.members[w.Name] = m
	if w.Version != a.o.Version {
		m.refused = &recovery.Error{Class: recovery.OutOfCapacity, Op: "use worker " + w.Name,
			Err: fmt.Errorf("it runs version %q, coordinator %s version %q", w.Version, a.o.Name, a.o.Version), Hint: "run the same release everywhere"}
		a.o.Log.Warn("worker is not used", "worker", w.Name, "err", m.refused)
		a.tellJobs(c, workerRefused{w, m.refused})
		return
	}
	a.greet(c, m)
}

// greet watches a worker and asks what it holds.
func (a *coordinator) greet(c actor.Context, m *member) {
	c.Watch(m.pid)
	c.Request(workerPID(m.Worker), &control.Hello{Header: commandHeader("", a.o.Epoch, m.Worker)})
}

func (a *coordinator) greetAll(c actor.Context) {
	for _, m := range a.members {
		if !m.up && m.refused == nil {
			a.greet(c, m)
		}
	}
	if !a.checked && !a.began.IsZero() && time.Since(a.began) > memberWait {
		a.checked = true
		a.checkModels(c)
	}
}

// holding takes a worker as there, or there again. What it holds for a job
// that is over is freed; what a resident model should have there and is not
// is lost, and repaired.
func (a *coordinator) holding(c actor.Context, h *control.Holding) {
	m := a.members[h.GetHeader().GetWorker()]
	if m == nil || lifeOf(m.Worker) != h.GetHeader().Life() {
		return
	}
	has := map[string]bool{} // jobs
	for _, held := range h.GetJobs() {
		has[held.GetJob()] = true
		e := a.jobs[held.GetJob()]
		model := a.modelOf(held.GetJob())
		switch {
		case e != nil && e.pid != nil: // its actor is told below
		case model != nil && model.at(m.Name):
			a.reserve(model, m, held)
		default:
			c.Request(workerPID(m.Worker), &control.CloseJob{Header: commandHeader(held.GetJob(), a.o.Epoch, m.Worker), Reason: "the job is over"})
		}
	}
	for _, model := range a.models {
		if !has[model.Job] && model.at(m.Name) {
			a.repair(c, model, "worker "+m.Name+" holds its part no longer")
		}
	}
	if !m.up {
		m.up = true
		a.o.Log.Info("worker is there", "worker", m.Name, "incarnation", m.Incarnation, "address", m.Address)
		a.tellJobs(c, workerUp{m.Worker, has})
	}
}

// reserve notes the room that a resident model takes at a worker.
func (a *coordinator) reserve(model *StoredModel, m *member, held *control.JobHeld) {
	a.ledger.Lock()
	defer a.ledger.Unlock()
	for _, h := range held.GetHolds() {
		hold := h.Job(lifeOf(m.Worker))
		for _, r := range model.Ranks {
			if r.Rank == hold.Rank {
				a.ledger.reserve(model.Job, hold, r.Bytes)
			}
		}
	}
}

func (a *coordinator) modelOf(jobID string) *StoredModel {
	for _, m := range a.models {
		if m.Job == jobID {
			return m
		}
	}
	return nil
}

// terminated hears of a broken connection, which makes a worker suspect, and of
// a Job that stopped without a word: it panicked.
func (a *coordinator) terminated(c actor.Context, t *actor.Terminated) {
	for _, m := range a.members {
		if samePID(m.pid, t.Who) && m.up {
			m.up = false
			a.system.questions.gone(m.Address, "its connection broke")
			a.o.Log.Warn("worker is suspect: its connection broke", "worker", m.Name)
			a.tellJobs(c, workerSuspect{lifeOf(m.Worker), "its connection broke"})
			return
		}
	}
	for _, e := range a.jobs {
		if samePID(e.pid, t.Who) {
			a.jobCrashed(c, e)
			return
		}
	}
}

// memberLost forgets a worker. The models that it held a part of are repaired.
func (a *coordinator) memberLost(c actor.Context, l memberLost) {
	m := a.members[l.worker.Name]
	if m == nil || lifeOf(m.Worker) != l.worker {
		return
	}
	delete(a.members, m.Name)
	c.Unwatch(m.pid)
	a.system.questions.gone(m.Address, l.reason)
	a.o.Log.Warn("worker is lost", "worker", m.Name, "reason", l.reason)
	a.tellJobs(c, workerLost(l))
	for _, model := range a.models {
		if model.at(m.Name) {
			a.ledger.leave(model.Job, l.worker)
			a.repair(c, model, "worker "+m.Name+" is lost: "+l.reason)
		}
	}
}

func (a *coordinator) tellJobs(c actor.Context, m any) {
	for _, e := range a.jobs {
		if e.pid != nil {
			c.Send(e.pid, m)
		}
	}
}

// event publishes a fact about a job.
func (a *coordinator) event(jobID, model string, kind progress.Kind, reason string) {
	a.o.Publish.Event(a.ctx, progress.Event{Job: jobID, Model: model, Kind: kind, Reason: reason, Rank: -1, Chunk: -1, Time: time.Now()})
}
