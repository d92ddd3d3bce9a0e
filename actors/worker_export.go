package actors

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// exportTask is a worker's part of an export: a rank that is dumped, or the
// model that is written.
type exportTask struct {
	job    *heldJob
	id     string // of the export
	cancel context.CancelFunc
	dump   string  // path of a dump, to be removed in the end
	answer message // nil while it runs
}

// exportEnded is what a task's goroutine tells the worker.
type exportEnded struct {
	task   *exportTask
	answer message
}

// export carries out the commands of an export. The job is open, of whatever
// epoch: a resident model outlives the coordinator that loaded it.
func (w *worker) export(c actor.Context, m message) error {
	j := w.jobs[m.GetHeader().GetJob()]
	if j == nil || j.state != jobIsOpen {
		return recovery.Errorf(recovery.Stale, "job %s is not open at worker %s", m.GetHeader().GetJob(), w.life.Name)
	}
	switch m := m.(type) {
	case *control.DumpRank:
		reply := &control.RankDumped{Header: w.header(j.spec.ID, w.epoch), Export: m.GetExport(), Rank: m.GetRank()}
		w.exportTask(c, j, m.GetExport(), fmt.Sprintf("%s/%d", m.GetExport(), m.GetRank()), m.GetPath(), reply, func(ctx context.Context) message {
			digest, err := w.Node.DumpRank(ctx, j.spec.ID, int(m.GetRank()), m.GetPath())
			return &control.RankDumped{Header: reply.Header, Export: reply.Export, Rank: reply.Rank, Done: true, Digest: digest[:], Error: control.FromError(err)}
		})
	case *control.ExportModel:
		reply := &control.ModelExported{Header: w.header(j.spec.ID, w.epoch), Export: m.GetExport()}
		key := m.GetExport()
		if m.GetCheck() {
			key += "/check"
		}
		w.exportTask(c, j, m.GetExport(), key, "", reply, func(ctx context.Context) message {
			warnings, err := w.write(ctx, j, m)
			return &control.ModelExported{Header: reply.Header, Export: reply.Export, Done: true, Warnings: warnings, Error: control.FromError(err)}
		})
	case *control.EndExport:
		w.endExport(m.GetExport())
	}
	return nil
}

// exportTask starts a task, or answers how one that was started before stands.
func (w *worker) exportTask(c actor.Context, j *heldJob, id, key, dump string, running message, do func(context.Context) message) {
	t := w.exports[key]
	switch {
	case t != nil && t.answer != nil:
		w.answer(c, t.answer)
		return
	case t == nil:
		ctx, cancel := context.WithCancel(j.ctx)
		t = &exportTask{job: j, id: id, cancel: cancel, dump: dump}
		w.exports[key] = t
		self := c.Self()
		w.jobDo(j, func() {
			defer cancel()
			w.system.root.Send(self, exportEnded{t, do(ctx)})
		})
	}
	w.answer(c, running)
}

// write writes the model that an export asks for, or checks that it would.
func (w *worker) write(ctx context.Context, j *heldJob, m *control.ExportModel) ([]string, error) {
	spec := loader.ExportSpec{Name: m.GetModel(), Path: m.GetPath(), Index: j.index}
	for _, d := range m.GetDumps() {
		dump := loader.Dump{Rank: int(d.GetRank()), Path: d.GetPath()}
		copy(dump.Digest[:], d.GetDigest())
		spec.Dumps = append(spec.Dumps, dump)
	}
	if m.GetCheck() {
		return nil, w.Node.CheckExport(ctx, j.spec.ID, spec)
	}
	warnings, err := w.Node.Export(ctx, j.spec.ID, spec)
	for _, d := range spec.Dumps { // whoever dumped them may be gone
		w.removeFile(d.Path)
	}
	return warnings, err
}

// endExport forgets an export's tasks. Those that run are stopped, and remove
// their dumps when they have ended.
func (w *worker) endExport(id string) {
	for key, t := range w.exports {
		if t.id != id {
			continue
		}
		delete(w.exports, key)
		t.cancel()
		if t.answer != nil {
			w.removeDump(t)
		}
		t.id = ""
	}
}

func (w *worker) exportEnded(m exportEnded) {
	m.task.answer = m.answer
	if m.task.id == "" { // ended before
		w.removeDump(m.task)
	}
}

// removeDump removes what a task has dumped. One that failed left nothing.
func (w *worker) removeDump(t *exportTask) {
	if d, ok := t.answer.(*control.RankDumped); !ok || d.GetError() != nil {
		return
	}
	w.removeFile(t.dump)
}

// removeFile removes a dump, if it is there.
func (w *worker) removeFile(dump string) {
	if err := w.Node.RemoveDump(dump); err != nil {
		w.Log.Error("a rank that was dumped for an export was not removed", "file", dump, "err", err)
	}
}

// forgetExports forgets the tasks of a job that is closed.
func (w *worker) forgetExports(j *heldJob) {
	for _, t := range w.exports {
		if t.job == j {
			w.endExport(t.id)
		}
	}
}
