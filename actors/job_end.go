package actors

import (
	"cmp"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// jobOver tells the coordinator that a job has ended. model is nil where none
// stays.
type jobOver struct {
	id            string
	superseded    bool // by another coordinator: there is nothing to keep
	job           messages.Job
	revision      uint64
	model         *messages.Model
	modelRevision uint64
	holders       []job.Worker // that hold the model, as the job knew them
}

// end notes how the job ended. What it held is freed first, unless it is
// ready; then the record is written, and only then is it told.
func (a *jobActor) end(c actor.Context, s job.Status, err error) {
	if a.phase >= phaseClosing {
		return
	}
	kind := progress.Failed
	switch s {
	case job.Ready:
		kind = progress.ReadyEvent
	case job.Cancelled:
		kind = progress.Cancelled
	}
	if len(a.final) == 0 {
		a.final = append(a.final, job.Emit{Kind: kind, Reason: text(err), Rank: -1, Chunk: -1})
	}
	a.endStage(time.Now())
	a.report.over = true
	a.rec.ended(s, err)
	if err != nil {
		a.span.SetStatus(codes.Error, err.Error())
	}
	a.span.SetAttributes(attribute.String("gantry.state", string(s)))
	if s == job.Ready {
		a.phase = phaseEnding
		a.record(c)
		return
	}
	a.close(c)
}

// close has the workers free what they hold for the job.
func (a *jobActor) close(c actor.Context) {
	a.phase, a.closing = phaseClosing, time.Now()
	a.closeAll(c)
	a.maybeClosed(c)
}

// closeAll tells the workers to free what they hold.
func (a *jobActor) closeAll(c actor.Context) {
	for _, w := range a.workers {
		if !w.knows {
			w.closed = true
		} else if w.up && !w.closed {
			a.send(c, w, &control.CloseJob{Header: commandHeader(a.id, a.o.Epoch, w.Worker), Reason: a.rec.job.Why})
		}
	}
}

// closeIdle ends a ready job at the workers that only helped to read it.
func (a *jobActor) closeIdle(c actor.Context) {
	holds := map[string]bool{}
	for _, r := range a.rec.job.Ranks {
		holds[r.Worker] = true
	}
	for _, w := range a.workers {
		if a.rec.job.State == messages.StateReady && w.knows && !holds[w.Name] {
			a.send(c, w, &control.CloseJob{Header: commandHeader(a.id, a.o.Epoch, w.Worker), Reason: "it holds no rank"})
		}
	}
}

// maybeClosed goes on when all workers have freed what they
// held, or have had the time to. Who comes back later is told by the
// coordinator.
func (a *jobActor) maybeClosed(c actor.Context) {
	if a.phase != phaseClosing {
		return
	}
	for _, w := range a.workers {
		if w.up && !w.closed && time.Since(a.closing) < closeWait {
			return
		}
	}
	a.ledger.forget(a.id)
	if a.rec.written { // it was ready, and is unloaded
		a.emit(job.Emit{Kind: progress.Unloaded, Reason: "the load was asked for once", Rank: -1, Chunk: -1})
		a.over(c)
		return
	}
	a.phase = phaseEnding
	a.record(c)
}

// recorded goes on after a write of the record.
func (a *jobActor) recorded(c actor.Context, m recorded) {
	a.rec.writing = false
	if m.modelRevision != 0 {
		if a.repairs != nil { // a swap of the model must know
			c.Send(c.Parent(), rewritten{models: map[string]rewrite{a.repairs.Name: {a.rec.modelRevision, m.modelRevision}}})
		}
		a.rec.modelRevision = m.modelRevision
	}
	a.rec.revision = cmp.Or(m.revision, a.rec.revision)
	a.rec.marked = a.rec.marked || m.err == nil
	stale := recovery.ClassOf(m.err) == recovery.Stale
	if !stale {
		a.rec.stale = time.Time{}
	} else if a.rec.stale.IsZero() {
		a.rec.stale = time.Now()
	}
	switch {
	case stale && m.final && a.req.Replace && time.Since(a.rec.stale) < storeLimit:
		// The model that it replaces is being repaired perhaps: that job has
		// written the model's record, and its new revision is on the way here.
		a.rec.dirty = true
	case stale:
		// Another coordinator has written: the job is its now.
		a.o.Log.Warn("job is led by another coordinator", "job", a.id, "err", m.err)
		c.Send(c.Parent(), jobOver{id: a.id, superseded: true})
		c.Stop(c.Self())
	case m.err != nil:
		a.o.Log.Warn("record of the job was not written, trying again", "job", a.id, "err", m.err)
		a.rec.dirty = true
	case m.final:
		a.rec.written = true
		a.closeIdle(c)
		if a.rec.job.State == messages.StateReady && a.req.Once {
			a.sayEnd()
			a.close(c)
			return
		}
		a.over(c)
	}
}

// over hands the job back to the coordinator, and then says how it ended: who
// hears of a model finds it.
func (a *jobActor) over(c actor.Context) {
	a.update(true)
	over := jobOver{id: a.id, job: a.rec.job, revision: a.rec.revision, model: a.model(), modelRevision: a.rec.modelRevision}
	if over.model != nil {
		for _, r := range a.machine.Ranks() {
			over.holders = append(over.holders, r.Hold.Worker)
		}
	}
	c.Send(c.Parent(), over)
	a.sayEnd()
	c.Stop(c.Self())
}

// sayEnd says how the job ended, unless it has been said.
func (a *jobActor) sayEnd() {
	if len(a.final) > 0 && a.rec.job.State == messages.StateReady && a.req.Replace {
		a.emit(job.Emit{Kind: progress.Swapped, Reason: "it has taken the place of the model of that name", Rank: -1, Chunk: -1})
	}
	for _, e := range a.final {
		a.emit(e)
	}
	a.final = nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
