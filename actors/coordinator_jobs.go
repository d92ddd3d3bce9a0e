package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// spawn starts the Job actor of a record, for a load, or to repair a model. The
// job's span continues ctx's trace.
func (a *coordinator) spawn(c actor.Context, rec messages.Job, revision uint64, req messages.LoadRequest, ctx context.Context, repairs *StoredModel) error {
	strategy, err := recovery.Parse(req.Recovery)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(trace.ContextWithRemoteSpanContext(context.Background(), trace.SpanContextFromContext(ctx)))
	name, id := "load", rec.Job
	if repairs != nil {
		// An actor of its own id: workers must not take it for the one before.
		a.repairs++
		name, id = "repair", fmt.Sprintf("%s.repair%d", rec.Job, a.repairs)
	}
	ctx, span := tracer().Start(ctx, name, trace.WithAttributes(
		attribute.String("gantry.job", rec.Job), attribute.String("gantry.model", rec.Model), attribute.String("gantry.scheme", req.Options.Scheme)))
	j := &jobActor{
		o: a.o, system: a.system, ledger: a.ledger, busy: a.busy, id: rec.Job, req: req, strategy: strategy, needs: req.Require,
		ctx: ctx, cancel: cancel, span: span, workers: map[string]*jobWorker{},
		rec: recorder{job: rec, revision: revision, before: before{retries: rec.Retries, recorded: rec.BytesRead}}, report: reporter{stage: progress.Initializing},
	}
	if m := a.models[rec.Model]; m != nil && req.Replace {
		j.rec.modelRevision = m.Revision
	}
	if revision > 0 {
		j.resumed = time.Now()
		for _, r := range rec.Ranks {
			j.before = append(j.before, job.Hold{Rank: r.Rank, Generation: r.Generation, Worker: job.Worker{Name: r.Worker}})
			// A new leader has yet to hear of the workers.
			if a.members[r.Worker] != nil || a.began.IsZero() {
				j.holders = append(j.holders, r.Worker)
			}
		}
	}
	if repairs != nil {
		j.repair(repairs, a.o.repairWait())
	}
	for _, m := range a.members {
		w := newJobWorker(m.Worker, j.needs)
		w.up = m.up
		if m.refused != nil {
			w.err = m.refused
		}
		j.workers[m.Name] = w
	}
	pid, err := c.SpawnNamed(actor.PropsFromProducer(func() actor.Actor { return j },
		actor.WithSenderMiddleware(a.system.refuseLarge, injectTrace(ctx))), id)
	if err != nil {
		cancel()
		span.End()
		return recovery.Errorf(recovery.Internal, "start job %s: %v", rec.Job, err)
	}
	a.jobs[rec.Job] = &jobEntry{job: rec, revision: revision, pid: pid}
	return nil
}

// conclude ends a job whose model an earlier coordinator had written down just
// before it went: that is what makes a model resident, so the job is ready.
func (a *coordinator) conclude(s StoredJob, m *StoredModel) {
	rec := s.Job
	rec.Epoch, rec.State, rec.Stage, rec.Overall, rec.Why = a.o.Epoch, messages.StateReady, progress.Completed, 1, ""
	rec.Ranks, rec.BytesPlaced = m.Ranks, m.Bytes
	written := make(chan struct{})
	a.jobs[rec.Job] = &jobEntry{job: rec, revision: s.Revision, written: written}
	a.event(rec.Job, rec.Model, progress.ReadyEvent, "all its ranks were ready when coordinator "+a.o.Name+" took over")
	a.busy.Go(func() {
		for {
			err := a.putJob(rec, s.Revision)
			if err == nil {
				close(written)
				return
			}
			a.o.Log.Error("record of a job that is ready was not written", "job", rec.Job, "err", err)
			select {
			case <-time.After(writeAgain):
			case <-a.ctx.Done():
				return
			}
		}
	})
}

// writeAgain is the pause after a last record that could not be written.
const writeAgain = time.Second

func (a *coordinator) putJob(j messages.Job, revision uint64) error {
	ctx, cancel := context.WithTimeout(a.ctx, storeLimit)
	defer cancel()
	_, err := a.o.Store.PutJob(ctx, j, revision)
	return err
}

// deleteModel deletes a model's record, not before its job's last one is
// written: by the two a later coordinator knows that the job is over, and
// without either it would load the model again. written is of the job's entry.
func (a *coordinator) deleteModel(model *StoredModel, written <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(a.ctx, storeLimit)
	defer cancel()
	if written != nil {
		select {
		case <-written:
		case <-ctx.Done():
			return recovery.Errorf(recovery.ClusterLost, "the last record of job %s is not written yet: %w", model.Job, context.Cause(ctx))
		}
	}
	return a.o.Store.DeleteModel(ctx, model.Name, model.Revision)
}

// unwritten is closed when a job's last record is written; nil: it is.
func (a *coordinator) unwritten(jobID string) <-chan struct{} {
	if e := a.jobs[jobID]; e != nil {
		return e.written
	}
	return nil
}

// jobOver keeps what a job has left: its record, and a model where one stays.
func (a *coordinator) jobOver(c actor.Context, m jobOver) {
	e := a.jobs[m.id]
	if e == nil {
		return
	}
	e.pid = nil
	after := e.after
	e.after = nil
	defer func() {
		for _, f := range after {
			f()
		}
	}()
	if m.superseded {
		// A swap perhaps has written the record of the model that this job was
		// repairing, and its request to give that up came too late.
		if next := a.models[e.job.Model]; next != nil && next.Job != m.id {
			a.retire(c, &StoredModel{Model: messages.Model{Name: e.job.Model, Job: m.id}})
		}
		return
	}
	e.job, e.revision = m.job, m.revision
	switch repaired := a.modelOf(m.id); {
	case m.model != nil:
		old := a.models[m.model.Name]
		a.models[m.model.Name] = &StoredModel{Model: *m.model, Revision: m.modelRevision}
		switch {
		case old == nil || old.Job == m.id:
		case a.jobs[old.Job] != nil && a.jobs[old.Job].pid != nil: // it is being repaired
			c.Send(a.jobs[old.Job].pid, cancelJob{"another model has taken its place"})
		default:
			a.retire(c, old)
		}
		a.checkHolders(c, m)
	case repaired != nil:
		repaired.Revision = m.modelRevision
		a.loseModel(c, repaired, cmp.Or(m.job.Why, "it could not be repaired"))
	}
	a.forgetOldest()
	a.o.Log.Info("job is over", "job", m.id, "state", m.job.State, "seconds", m.job.Seconds, "why", m.job.Why)
	a.tellJobs(c, roomsChanged{})
}

// checkHolders has the model of a job that is over repaired if one of its
// workers was lost while it was being written down: the job was over for its
// machine then, and the model not one of ours yet.
func (a *coordinator) checkHolders(c actor.Context, over jobOver) {
	for _, h := range over.holders {
		if m := a.members[h.Name]; m == nil || lifeOf(m.Worker) != h {
			a.repair(c, a.models[over.model.Name], "worker "+h.Name+" was lost while the model's record was being written")
			return
		}
	}
}

// keptJobs is how many jobs a coordinator remembers; the records of older ones
// stay in the store for as long as it keeps them.
const keptJobs = 1000

// forgetOldest keeps the list of ended jobs within bounds.
func (a *coordinator) forgetOldest() {
	var oldest *jobEntry
	for _, e := range a.jobs {
		if e.pid == nil && a.modelOf(e.job.Job) == nil && (oldest == nil || e.job.Submitted.Before(oldest.job.Submitted)) {
			oldest = e
		}
	}
	if len(a.jobs) > keptJobs && oldest != nil {
		delete(a.jobs, oldest.job.Job)
	}
}

// jobCrashed ends a job whose actor panicked: its state is not to be trusted
// any more, so that what it placed is freed and its record says failed.
func (a *coordinator) jobCrashed(c actor.Context, e *jobEntry) {
	e.pid = nil
	e.job.State, e.job.Class = messages.StateFailed, recovery.Internal
	e.job.Why = "a bug in the coordinator ended the job: see its log"
	a.ledger.forget(e.job.Job)
	for _, m := range a.members {
		c.Request(workerPID(m.Worker), &control.CloseJob{Header: commandHeader(e.job.Job, a.o.Epoch, m.Worker), Reason: e.job.Why})
	}
	a.event(e.job.Job, e.job.Model, progress.Failed, e.job.Why)
	if m := a.modelOf(e.job.Job); m != nil { // it was being repaired
		a.loseModel(c, m, e.job.Why)
	}
	rec, revision, base := e.job, e.revision, a.ctx
	a.busy.Go(func() {
		ctx, cancel := context.WithTimeout(base, storeLimit)
		defer cancel()
		// The job's own last write may have moved the revision.
		if all, err := a.o.Store.Jobs(ctx); err == nil {
			for _, s := range all {
				if s.Job.Job == rec.Job {
					revision = s.Revision
				}
			}
		}
		if _, err := a.o.Store.PutJob(ctx, rec, revision); err != nil {
			a.o.Log.Error("record of a crashed job was not written", "job", rec.Job, "err", err)
		}
	})
	a.tellJobs(c, roomsChanged{})
}

// retired tells that a model that was replaced is freed.
type retired struct {
	model *StoredModel
	err   error
}

// retire frees a model that another has taken the place of, in a goroutine that
// answers with retired. A worker that is not there frees it when it is back.
func (a *coordinator) retire(c actor.Context, model *StoredModel) {
	at, self := a.present(), c.Self()
	a.busy.Go(func() {
		a.system.root.Send(self, retired{model, a.closeAt(at, model.Job)})
	})
}

func (a *coordinator) retired(c actor.Context, m retired) {
	if m.err != nil {
		a.o.Log.Warn("a replaced model is not freed everywhere yet", "model", m.model.Name, "job", m.model.Job, "err", m.err)
	}
	a.ledger.forget(m.model.Job)
	a.tellJobs(c, roomsChanged{})
}

// present lists the members.
func (a *coordinator) present() (at []messages.Worker) {
	for _, m := range a.members {
		at = append(at, m.Worker)
	}
	return at
}

// unloaded is the outcome of an unload.
type unloaded struct {
	model *StoredModel
	err   error
	reply chan<- reply
}

// unload frees a model at its workers and deletes its record, in a goroutine
// that answers with unloaded. A worker out of reach frees its part when it is
// back: what the others have freed is no model any more.
func (a *coordinator) unload(c actor.Context, model *StoredModel, answer chan<- reply) {
	at, self, written := a.present(), c.Self(), a.unwritten(model.Job)
	a.busy.Go(func() {
		err := a.closeAt(at, model.Job)
		if class := recovery.ClassOf(err); class == recovery.Timeout || class == recovery.WorkerLost {
			a.o.Log.Warn("an unloaded model is not freed everywhere yet", "model", model.Name, "job", model.Job, "err", err)
			err = nil
		}
		if err == nil {
			err = a.deleteModel(model, written)
		}
		a.system.root.Send(self, unloaded{model, err, answer})
	})
}

// closeLimit is how long workers are asked to close a job: it takes as long as
// it takes to free memory.
const closeLimit = 10 * time.Second

// closeAt has workers free what they hold for a job, all at once.
func (a *coordinator) closeAt(workers []messages.Worker, jobID string) error {
	errs := make([]error, len(workers))
	var all sync.WaitGroup
	for i, w := range workers {
		all.Go(func() { errs[i] = a.closeOne(w, jobID) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (a *coordinator) closeOne(w messages.Worker, jobID string) error {
	answer, err := a.system.askAgain(a.ctx, workerPID(w), &control.CloseJob{Header: commandHeader(jobID, a.o.Epoch, w), Reason: "unload"}, closeLimit)
	switch m := answer.(type) {
	case *control.JobClosed:
		err = m.GetError().Recover()
	case *control.Refused:
		err = m.GetError().Recover()
	}
	return err
}

func (a *coordinator) unloaded(c actor.Context, m unloaded) {
	if m.err == nil {
		if a.models[m.model.Name] == m.model {
			delete(a.models, m.model.Name)
		}
		a.ledger.forget(m.model.Job)
		a.event(m.model.Job, m.model.Name, progress.Unloaded, "its memory is free")
		a.tellJobs(c, roomsChanged{})
	}
	m.reply <- reply{m.model.Model, m.err}
}
