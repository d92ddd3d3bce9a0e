package actors

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// A resident model of which a part was lost is repaired by its job, which goes
// on as if another coordinator had taken it over: the workers say what they
// hold, the machine places what nobody holds any more on devices with room, and
// fills it from a copy of the rank, or from the source.

// DefaultRepairWait is how long lost ranks of a resident model wait for room.
const DefaultRepairWait = 5 * time.Minute

func (o *CoordinatorOptions) repairWait() time.Duration {
	return cmp.Or(o.RepairWait, DefaultRepairWait)
}

// repair begins to repair a model, unless that is under way. Where it cannot be
// done, or was not asked for (a load that is to fail fast), the model is given
// up.
func (a *coordinator) repair(c actor.Context, model *StoredModel, reason string) {
	e := a.jobs[model.Job]
	switch {
	case e != nil && e.pid != nil:
		return // its actor is told
	case e == nil || e.job.Request == nil || a.o.repairWait() < 0:
		a.loseModel(c, model, reason)
		return
	}
	if s, err := recovery.Parse(e.job.Request.Recovery); err != nil || s.Kind == recovery.KindFailFast {
		a.loseModel(c, model, reason)
		return
	}
	model.State, model.Why = messages.StateRepairing, reason
	rec := e.job
	rec.Epoch, rec.State, rec.Ranks = a.o.Epoch, messages.StatePlanning, model.Ranks
	if err := a.spawn(c, rec, e.revision, *rec.Request, context.Background(), model); err != nil {
		a.loseModel(c, model, reason+"; "+err.Error())
		return
	}
	a.o.Log.Warn("model is repaired", "model", model.Name, "job", model.Job, "why", reason)
	a.event(model.Job, model.Name, progress.WorkerLost, reason+"; what it held of the model is placed anew")
}

// repairAll goes on with repairs that an earlier coordinator had noted and not
// begun, and gives up what it had not deleted.
func (a *coordinator) repairAll(c actor.Context) {
	for _, model := range a.models {
		e := a.jobs[model.Job]
		switch {
		case model.State != messages.StateRepairing || e != nil && e.pid != nil:
		case e != nil && e.job.State == messages.StateReady:
			a.repair(c, model, model.Why)
		default:
			a.loseModel(c, model, "it could not be repaired")
		}
	}
}

// checkModels repairs the models whose workers went while nobody led.
func (a *coordinator) checkModels(c actor.Context) {
	for _, model := range a.models {
		for _, r := range model.Ranks {
			if a.members[r.Worker] == nil {
				a.repair(c, model, "worker "+r.Worker+" is not there any more")
				break
			}
		}
	}
}

// jobChanged notes how a job stands, and with it the model that it repairs.
func (a *coordinator) jobChanged(j messages.Job) {
	e := a.jobs[j.Job]
	if e == nil {
		return
	}
	e.job = j
	if m := a.modelOf(j.Job); m != nil && m.State == messages.StateRepairing && len(j.Ranks) > 0 {
		m.Ranks = j.Ranks
	}
}

// loseModel gives up a model of which a part is lost: what is left of it is
// freed, and it is no longer listed.
func (a *coordinator) loseModel(c actor.Context, model *StoredModel, reason string) {
	delete(a.models, model.Name)
	a.ledger.forget(model.Job)
	for _, m := range a.members {
		c.Request(workerPID(m.Worker), &control.CloseJob{Header: commandHeader(model.Job, a.o.Epoch, m.Worker), Reason: reason})
	}
	a.event(model.Job, model.Name, progress.Unloaded, reason)
	a.dropModel(model)
}

// dropModel deletes a model's record.
func (a *coordinator) dropModel(model *StoredModel) {
	written := a.unwritten(model.Job)
	a.busy.Go(func() {
		if err := a.deleteModel(model, written); err != nil {
			a.o.Log.Error("record of a lost model was not deleted", "model", model.Name, "err", err)
		}
	})
}

// repair makes an actor that of a model which was ready, and of which ranks were
// lost.
func (a *jobActor) repair(model *StoredModel, wait time.Duration) {
	was := *model
	a.repairs, a.rec.repair, a.rec.modelRevision = &was, true, was.Revision
	a.report.over = true // the stages are the load's
	r := &a.req
	r.Replace, r.Once, r.DeadlineSeconds, r.WaitWorkers, r.WaitSeconds = false, false, 0, 0, wait.Seconds()
}

// wasLost says what is repaired.
func (a *jobActor) wasLost() string {
	if a.repairs == nil {
		return ""
	}
	return a.repairs.Why
}

// kept reports whether a rank of a model that is repaired lies where it did.
func (a *jobActor) kept(rank int) bool {
	if a.repairs == nil {
		return false
	}
	now := a.machine.Ranks()[rank].Hold
	return slices.ContainsFunc(a.before, func(h job.Hold) bool {
		return h.Rank == rank && h.Generation == now.Generation && h.Worker.Name == now.Worker.Name
	})
}
