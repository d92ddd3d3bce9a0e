package actors

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// beginPlan asks the workers that are there for a plan.
func (a *jobActor) beginPlan(c actor.Context) {
	if a.phase != phasePlanning || a.report.planning {
		return
	}
	var ask, holders []messages.Worker // who holds ranks has the index already
	var lacks error                    // why the first that must not be asked must not
	for _, w := range a.inOrder() {
		switch {
		case w.up && w.err == nil && slices.Contains(a.holders, w.Name):
			holders = append(holders, w.Worker)
		case w.up && w.err == nil:
			ask = append(ask, w.Worker)
		case w.err != nil && lacks == nil:
			lacks = w.err
		}
	}
	ask = append(holders, ask...)
	switch {
	case len(ask) > 0:
	case lacks == nil:
		a.setState(messages.StateWaiting, "no worker has joined yet")
		return
	case time.Since(a.began) < max(joinWait, a.req.Wait()):
		a.setState(messages.StateWaiting, lacks.Error())
		return
	default:
		a.end(c, job.Failed, lacks)
		return
	}
	a.report.planning = true
	a.setState(messages.StatePlanning, "")
	self, root := c.Self(), a.system.root
	p := planner{a.system, a.o.Plans, a.o.Epoch, a.strategy}
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
	var err error
	if a.needs, err = a.needs.And(m.require); err != nil {
		a.end(c, job.Failed, err)
		return
	}
	for _, w := range a.workers {
		w.check(a.needs)
	}
	a.planned = m
	a.phase = phaseOpening
	a.machine = job.New(m.plan, job.Options{Strategy: a.strategy, Pins: a.req.Placement, Patience: a.o.Patience, Wait: a.waitLeft(),
		RetryBudget: a.req.RetryBudget, Before: a.before, Resident: a.repairs != nil})
	a.rec.planned(m.plan, m.digest)
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
		w.asked, w.knows = time.Now(), true
		a.send(c, w, &control.OpenJob{
			Header: commandHeader(a.id, a.o.Epoch, w.Worker), Uri: a.req.URI, IndexDigest: a.planned.index,
			Options: control.FromOptions(a.req.Options), PlanDigest: a.planned.digest,
			Strategy: control.FromStrategy(a.strategy), LimitRate: a.req.LimitRate, Validate: a.req.Validate, InPlace: a.req.InPlace,
		})
	}
}

// jobOpened counts a worker in, or out.
func (a *jobActor) jobOpened(c actor.Context, w *jobWorker, m *control.JobOpened) {
	if w.opened || a.phase > phaseDriving {
		return
	}
	if err := m.GetError().Recover(); err != nil {
		w.fails++
		if again := recovery.ShouldRecover(err) || recovery.ClassOf(err) == recovery.ClusterLost; !again || w.fails == openTries && a.repairs == nil {
			w.err = err
		}
		a.o.Log.Warn("worker cannot open the job", "job", a.id, "worker", w.Name, "err", err)
	} else {
		w.opened, w.held, w.lends = true, m.JobHeld(lifeOf(w.Worker)), m.JobLends()
		a.rec.before.told += m.GetBytesRead()
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
// job, or has had the time to. One that held ranks for the leader before is
// waited for as long as its lease may take to show that it is there.
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
	if time.Since(a.resumed) < holderWait && slices.ContainsFunc(a.holders, func(name string) bool {
		w := a.workers[name]
		return w == nil || !w.opened && w.err == nil
	}) {
		return
	}
	missing := a.missing(opened)
	switch {
	case opened > 0 && missing != nil && a.waitLeft() > 0:
		a.setState(messages.StateWaiting, missing.Error())
	case opened > 0 && missing != nil:
		a.end(c, job.Failed, missing)
	case opened > 0:
		a.phase = phaseDriving
		a.drive(c, nil)
	case failed == nil:
	case recovery.ClassOf(failed) == recovery.OutOfCapacity && time.Since(a.began) < max(joinWait, a.req.Wait()): // as in beginPlan
		a.setState(messages.StateWaiting, failed.Error())
	default:
		a.end(c, job.Failed, failed)
	}
}

// wants reports whether a device has what is required and is one that was
// asked for: any, or of a list of ids and kinds such as "cuda".
func (a *jobActor) wants(device messages.Device) bool {
	if a.needs.CheckDevice(device.Required()) != nil {
		return false
	}
	if a.req.Device == "" || a.req.Device == "auto" {
		return true
	}
	for d := range strings.SplitSeq(a.req.Device, ",") {
		if d == device.ID || strings.HasPrefix(device.ID, d+":") {
			return true
		}
	}
	return false
}

// missing says what the workers that have opened the job lack for it to start,
// besides room. A job that was taken over has started.
func (a *jobActor) missing(opened int) error {
	e := &recovery.Error{Class: recovery.OutOfCapacity, Op: "load", File: a.req.URI}
	switch {
	case !a.deviceThere():
		e.Err, e.Hint = fmt.Errorf("no worker has a device %s", a.req.Device), "see `gantry workers`, or use --device auto"
	case opened < a.req.WaitWorkers && len(a.holders) == 0:
		e.Err, e.Hint = fmt.Errorf("%d of %d workers have joined", opened, a.req.WaitWorkers), "start more: worker --nats URL"
	default:
		return nil
	}
	return e
}

// waitLeft is how long the job may still wait for workers.
func (a *jobActor) waitLeft() time.Duration {
	return max(a.req.Wait()-time.Since(a.since), 0)
}

// deviceThere reports whether any worker has a device that was asked for.
func (a *jobActor) deviceThere() bool {
	for _, w := range a.workers {
		if w.opened && slices.ContainsFunc(w.Devices, a.wants) {
			return true
		}
	}
	return false
}
