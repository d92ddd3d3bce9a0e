package actors

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// inOrder lists the workers by name, so that what is decided does not depend
// on a map's order.
func (a *jobActor) inOrder() []*jobWorker {
	all := make([]*jobWorker, 0, len(a.workers))
	for _, w := range a.workers {
		all = append(all, w)
	}
	slices.SortFunc(all, func(x, y *jobWorker) int { return cmp.Compare(x.Name, y.Name) })
	return all
}

// workerUp takes a worker in, or back. A new life of it has nothing open.
func (a *jobActor) workerUp(c actor.Context, up workerUp) {
	m := up.worker
	w := a.workers[m.Name]
	if w == nil || w.Incarnation != m.Incarnation {
		w = newJobWorker(m, a.needs)
		a.workers[m.Name] = w
	}
	w.up, w.Worker = true, m
	if up.open[a.id] {
		w.knows, w.closed = true, false
	}
	switch {
	case a.phase == phasePlanning:
		a.beginPlan(c)
	case w.opened:
		a.drive(c, job.WorkerUp{Worker: lifeOf(m)})
	case a.phase == phaseEnding && a.rec.job.State == messages.StateReady:
		a.closeIdle(c)
	case a.phase >= phaseClosing:
		a.closeAll(c)
	default:
		w.asked = time.Time{}
		a.openAll(c)
	}
}

func (a *jobActor) workerSuspect(c actor.Context, m workerSuspect) {
	w := a.workers[m.worker.Name]
	if w == nil || lifeOf(w.Worker) != m.worker {
		return
	}
	w.up = false
	a.drive(c, job.WorkerSuspect{Worker: m.worker, Reason: m.reason})
	a.maybeStart(c)
	a.maybeClosed(c)
}

func (a *jobActor) workerLost(c actor.Context, m workerLost) {
	w := a.workers[m.worker.Name]
	if w == nil || lifeOf(w.Worker) != m.worker {
		return
	}
	w.up = false
	a.drive(c, job.WorkerLost{Worker: m.worker, Reason: m.reason})
	a.maybeStart(c)
	a.maybeClosed(c)
}

// roomsChanged tells a machine that waits for room what there is now.
func (a *jobActor) roomsChanged(c actor.Context) {
	if a.phase != phaseDriving || a.machine.Status() != job.Waiting {
		return
	}
	for _, w := range a.inOrder() {
		if w.opened && w.up {
			a.drive(c, job.WorkerUp{Worker: lifeOf(w.Worker)})
		}
	}
}

// cancelled ends the job because somebody asked for it.
func (a *jobActor) cancelled(c actor.Context, reason string) {
	if reason == "" {
		reason = "cancelled"
	}
	if a.phase == phaseDriving {
		a.drive(c, job.Cancel{Reason: reason})
		return
	}
	a.end(c, job.Cancelled, recovery.Errorf(recovery.Cancelled, "%s", reason))
}

// tick does what time brings: what was not answered is asked again, progress
// is told, the record is kept current, patience ends.
func (a *jobActor) tick(c actor.Context) {
	a.checkDeadline(c)
	switch a.phase {
	case phasePlanning:
		a.beginPlan(c)
		if !a.report.planning && time.Since(a.since) > a.patience() {
			a.end(c, job.Failed, &recovery.Error{
				Class: recovery.OutOfCapacity, Op: "load", File: a.req.URI,
				Err:  fmt.Errorf("no worker has joined within %s", a.patience()),
				Hint: "start one: worker --nats URL",
			})
			return
		}
	case phaseOpening:
		a.openAll(c)
		a.maybeStart(c)
	case phaseDriving:
		a.openAll(c)
	case phaseClosing:
		if time.Since(a.closing) > closeWait/3 {
			a.closeAll(c)
		}
		a.maybeClosed(c)
	}
	if a.update(false) {
		a.show(c)
	}
	if a.rec.dirty || a.phase < phaseClosing && time.Since(a.rec.last) >= recordEvery {
		a.record(c)
	}
}

// checkDeadline fails a job whose time is over.
func (a *jobActor) checkDeadline(c actor.Context) {
	limit := a.req.Deadline()
	if a.phase >= phaseClosing || limit == 0 || time.Since(a.since) < limit {
		return
	}
	err := &recovery.Error{Class: recovery.Timeout, Op: "load", File: a.req.URI,
		Err:  fmt.Errorf("the deadline of %s has passed: the job was %s, %.0f %% done", limit, a.rec.job.State, 100*a.rec.job.Overall),
		Hint: "give it a longer --deadline"}
	if a.phase == phaseDriving {
		a.drive(c, job.Abort{Err: err})
		return
	}
	a.end(c, job.Failed, err)
}

// patience is how long the job waits for a first worker.
func (a *jobActor) patience() time.Duration {
	patience := a.o.Patience
	if patience <= 0 {
		patience = job.DefaultPatience
	}
	return max(patience, a.req.Wait())
}

// heard turns a worker's message into an event for the machine. What does not
// come from a life that is known, or is of another epoch, is dropped.
func (a *jobActor) heard(c actor.Context, m message) {
	h := m.GetHeader()
	w := a.workers[h.GetWorker()]
	if w == nil || lifeOf(w.Worker) != h.Life() {
		return
	}
	if r, ok := m.(*control.Refused); ok {
		a.refused(c, w, r)
		return
	}
	if h.GetVersion() != control.Version || h.GetJob() != a.id || h.GetEpoch() != a.o.Epoch {
		return
	}
	life := lifeOf(w.Worker)
	switch m := m.(type) {
	case *control.JobOpened:
		a.jobOpened(c, w, m)
	case *control.JobClosed:
		w.closed = true
		if err := m.GetError().Recover(); err != nil {
			a.o.Log.Warn("worker could not free everything", "job", a.id, "worker", w.Name, "err", err)
		}
		a.maybeClosed(c)
	case *control.Placed:
		hold := m.GetHold().Job(life)
		if err := m.GetError().Recover(); err != nil {
			a.drive(c, job.PlaceFailed{Hold: hold, Err: err})
		} else {
			a.drive(c, job.Placed{Hold: hold})
		}
	case *control.Accepted:
		a.drive(c, job.Accepted{Ref: m.GetRef().Job(life)})
	case *control.Holding:
		a.drive(c, holdingEvent(life, a.id, m))
	case *control.ChunkRetried:
		a.drive(c, job.ChunkRetried{Ref: m.GetRef().Job(life), Failed: int(m.GetFailed()), Err: m.GetError().Recover()})
	case *control.ChunkFailed:
		w.bytesRead += m.GetBytesRead()
		a.drive(c, job.ChunkFailed{Ref: m.GetRef().Job(life), BytesRead: m.GetBytesRead(), Err: m.GetError().Recover()})
	case *control.ChunkDone:
		pieces, err := m.JobPieces()
		if err != nil {
			a.drive(c, job.ChunkFailed{Ref: m.GetRef().Job(life), BytesRead: m.GetBytesRead(), Err: err})
			return
		}
		w.bytesRead += m.GetBytesRead()
		if m.GetBytesRead() > 0 { // a copy is no chunk more
			w.chunksDone++
		}
		a.drive(c, job.ChunkDone{Ref: m.GetRef().Job(life), BytesRead: m.GetBytesRead(), Pieces: pieces})
	case *control.Sealed:
		a.sealed(c, life, m)
	}
}

// holdingEvent is what a worker has of the job, as an event.
func holdingEvent(life job.Worker, id string, m *control.Holding) job.Holding {
	e := job.Holding{Worker: life}
	for _, j := range m.GetJobs() {
		if j.GetJob() == id {
			for _, r := range j.GetInFlight() {
				e.Refs = append(e.Refs, r.Job(life))
			}
			for _, r := range j.GetSealed() {
				e.Sealed = append(e.Sealed, int(r))
			}
		}
	}
	return e
}

// sealed notes what the check of a rank found, and tells the machine.
func (a *jobActor) sealed(c actor.Context, life job.Worker, m *control.Sealed) {
	hold := m.GetHold().Job(life)
	a.rec.peakStaging(m.GetPeakStaging())
	if err := m.GetError().Recover(); err != nil {
		a.rec.sealErr = err
		a.drive(c, job.SealFailed{Hold: hold, Err: err})
		return
	}
	digest, err := control.Digest(m.GetDigest())
	if err != nil {
		a.drive(c, job.SealFailed{Hold: hold, Err: err})
		return
	}
	a.rec.validated(hold.Rank, toValidation(m.GetValidation()))
	a.drive(c, job.Sealed{Hold: hold, Digest: digest})
}

// refused handles a command that a worker would not carry out.
func (a *jobActor) refused(c actor.Context, w *jobWorker, m *control.Refused) {
	err := m.GetError().Recover()
	switch {
	case m.GetHeader().GetEpoch() > a.o.Epoch:
		a.o.Log.Warn("job is led by another coordinator", "job", a.id, "worker", w.Name, "epoch", m.GetHeader().GetEpoch())
		c.Send(c.Parent(), jobOver{id: a.id, superseded: true})
		c.Stop(c.Self())
	case a.phase >= phaseClosing:
	case !w.opened:
		w.err = err
		a.maybeStart(c)
	default:
		// The worker has the job no longer. What it had is lost; it may open
		// the job again.
		w.opened, w.asked = false, time.Time{}
		a.drive(c, job.WorkerLost{Worker: lifeOf(w.Worker), Reason: err.Error()})
		a.openAll(c)
	}
}
