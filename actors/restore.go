package actors

import (
	"context"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/messages/control"
)

// A store that lost what it had is filled again from what the coordinator knows:
// the records of models and of jobs, and, by the workers, the indexes of jobs that
// run. Events of before are gone.

// storeLost tells that the store is empty; rewritten, which records were written
// again.
type (
	storeLost struct{}
	rewritten struct{ models, jobs map[string]rewrite }
)

// rewrite is the revision of a record that was lost, and that of the new one,
// which may be the smaller.
type rewrite struct{ old, new uint64 }

// apply changes a revision that is still that of the lost record.
func (r rewrite) apply(revision *uint64) {
	if *revision == r.old && r.new > 0 {
		*revision = r.new
	}
}

// StoreLost tells that the store has lost what was in it.
func (c *Coordinator) StoreLost() { c.system.root.Send(c.pid, storeLost{}) }

// storeLost writes the records of models and of jobs that have ended; those that
// run write their own.
func (a *coordinator) storeLost(c actor.Context) {
	a.tellJobs(c, storeLost{})
	var models []StoredModel
	var jobs []StoredJob
	for _, m := range a.models {
		models = append(models, *m)
	}
	for _, e := range a.jobs {
		if e.pid == nil {
			jobs = append(jobs, StoredJob{e.job, e.revision})
		}
	}
	self := c.Self()
	a.busy.Go(func() {
		out := rewritten{map[string]rewrite{}, map[string]rewrite{}}
		for _, m := range models {
			out.models[m.Name] = a.write("model", m.Name, m.Revision, func(ctx context.Context) (uint64, error) { return a.o.Store.PutModel(ctx, m.Model, m.Revision) })
		}
		for _, j := range jobs {
			out.jobs[j.Job.Job] = a.write("job", j.Job.Job, j.Revision, func(ctx context.Context) (uint64, error) { return a.o.Store.PutJob(ctx, j.Job, j.Revision) })
		}
		a.system.root.Send(self, out)
	})
}

// write writes a record.
func (a *coordinator) write(what, name string, old uint64, put func(context.Context) (uint64, error)) rewrite {
	ctx, cancel := context.WithTimeout(a.ctx, storeLimit)
	defer cancel()
	revision, err := put(ctx)
	if err != nil {
		a.o.Log.Error("record was not written again", what, name, "err", err)
	}
	return rewrite{old, revision}
}

// rewritten notes the new revisions.
func (a *coordinator) rewritten(c actor.Context, m rewritten) {
	for name, r := range m.models {
		if model := a.models[name]; model != nil {
			r.apply(&model.Revision)
		}
	}
	for id, r := range m.jobs {
		if e := a.jobs[id]; e != nil {
			r.apply(&e.revision)
		}
	}
	a.tellJobs(c, m)
}

// storeLost writes the job's record again, and has a worker that has the job
// open store its index, which others may yet ask for.
func (a *jobActor) storeLost(c actor.Context) {
	a.rec.dirty, a.rec.marked = true, false
	for _, w := range a.inOrder() {
		if w.opened && w.up {
			a.send(c, w, &control.OpenIndex{Header: commandHeader(a.id, a.o.Epoch, w.Worker), Uri: a.req.URI, Strategy: control.FromStrategy(a.strategy)})
			return
		}
	}
}
