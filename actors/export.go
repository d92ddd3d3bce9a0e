package actors

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// Times and limits of exports.
const (
	exportPoll  = 200 * time.Millisecond // between questions how far a worker is
	exportLimit = 5 * time.Second        // for an answer
	exportTries = 4                      // questions without an answer before a worker is given up
	keptExports = 100                    // that have ended
)

// exportRun is an export that the coordinator leads.
type exportRun struct {
	messages.Export
	model   messages.Model
	workers map[string]messages.Worker // by name, those that hold ranks
}

// exportOver is its end.
type exportOver struct {
	id       string
	warnings []string
	err      error
}

// Export begins to write a resident model to a folder or file that the workers
// reach, and returns how far it is. The same export id again returns the export
// there is, so that a client asks until the state is final.
func (c *Coordinator) Export(ctx context.Context, q messages.ExportRequest) (messages.Export, error) {
	if err := messages.CheckToken("export id", q.Export); err != nil {
		return messages.Export{}, err
	}
	if !filepath.IsAbs(q.Path) {
		return messages.Export{}, recovery.Errorf(recovery.Usage, "export: %q is not an absolute path", q.Path)
	}
	return ask[messages.Export](ctx, c, func(a *coordinator, ac actor.Context) (any, error) {
		if x := a.exports[q.Export]; x != nil {
			return x.Export, nil
		}
		x, err := a.newExport(q)
		if err != nil {
			return nil, err
		}
		a.exports[q.Export] = x
		self := ac.Self()
		run := *x // the goroutine's own
		a.busy.Go(func() {
			warnings, err := a.export(&run)
			a.system.root.Send(self, exportOver{run.Export.Export, warnings, err})
		})
		return x.Export, nil
	})
}

// newExport finds the model and those who hold it.
func (a *coordinator) newExport(q messages.ExportRequest) (*exportRun, error) {
	m := a.models[q.Name]
	if m == nil {
		return nil, recovery.Errorf(recovery.NotFound, "no model named %q is resident", q.Name)
	}
	if m.State == messages.StateRepairing {
		return nil, recovery.Errorf(recovery.Unavailable, "model %s is being repaired: %s", q.Name, m.Why)
	}
	x := &exportRun{
		Export: messages.Export{Export: q.Export, Model: q.Name, Path: filepath.Clean(q.Path), State: messages.StateLoading, Since: time.Now(), Warnings: []string{}},
		model:  m.Model, workers: map[string]messages.Worker{},
	}
	x.model.Ranks = slices.Clone(m.Model.Ranks)
	slices.SortFunc(x.model.Ranks, func(x, y messages.Rank) int { return x.Rank - y.Rank })
	for _, r := range x.model.Ranks {
		w := a.members[r.Worker]
		if w == nil {
			return nil, recovery.Errorf(recovery.WorkerLost, "export %s: worker %s, which holds rank %d, is not there", q.Name, r.Worker, r.Rank)
		}
		x.workers[r.Worker] = w.Worker
	}
	return x, nil
}

// exportOver notes how an export ended.
func (a *coordinator) exportOver(m exportOver) {
	x := a.exports[m.id]
	x.State, x.Seconds, x.Warnings = messages.StateReady, time.Since(x.Since).Seconds(), append(x.Warnings, m.warnings...)
	if m.err != nil {
		x.State, x.Class, x.Why = messages.StateFailed, recovery.ClassOf(m.err), m.err.Error()
	}
	a.o.Log.Info("export is over", "model", x.Model, "path", x.Path, "state", x.State, "why", x.Why)
	var oldest *exportRun
	for _, o := range a.exports {
		if o.State.Final() && (oldest == nil || o.Since.Before(oldest.Since)) {
			oldest = o
		}
	}
	if len(a.exports) > keptExports && oldest != nil {
		delete(a.exports, oldest.Export.Export)
	}
}

// export has ranks dumped by the workers that do not write the model, and then
// the model written by the one that holds the first rank, which is asked before
// whether it would, so that an export that is refused makes no folder. No weight
// travels with a message: the folder is one that all reach.
func (a *coordinator) export(x *exportRun) ([]string, error) {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	defer a.endExport(x)
	writer := x.workers[x.model.Ranks[0].Worker]
	command := func(check bool, dumps []*control.DumpedRank) *control.ExportModel {
		return &control.ExportModel{Header: a.exportHeader(x, writer), Export: x.Export.Export, Model: x.Model, Path: x.Path, Dumps: dumps, Check: check}
	}
	if len(x.workers) > 1 {
		if _, err := a.exportBy(ctx, writer, command(true, nil)); err != nil {
			return nil, err
		}
	}
	dumps, err := a.dumps(ctx, cancel, x, writer.Name)
	if err != nil {
		return nil, err
	}
	return a.exportBy(ctx, writer, command(false, dumps))
}

// exportBy has a worker write a model, or check that it would.
func (a *coordinator) exportBy(ctx context.Context, writer messages.Worker, command *control.ExportModel) ([]string, error) {
	answer, err := a.until(ctx, writer, command)
	if err != nil {
		return nil, err
	}
	m, ok := answer.(*control.ModelExported)
	if !ok {
		return nil, recovery.Errorf(recovery.Internal, "worker %s answers an export with %T", writer.Name, answer)
	}
	return m.GetWarnings(), m.GetError().Recover()
}

func (a *coordinator) exportHeader(x *exportRun, w messages.Worker) *control.Header {
	return commandHeader(x.model.Job, a.o.Epoch, w)
}

// dumps has the ranks that the writer does not hold written to files, all at
// once. The first failure ends the others.
func (a *coordinator) dumps(ctx context.Context, cancel context.CancelFunc, x *exportRun, writer string) ([]*control.DumpedRank, error) {
	dir := x.Path
	if ext := filepath.Ext(x.Path); ext == ".gguf" || ext == ".safetensors" {
		dir = filepath.Dir(x.Path)
	}
	var mu sync.Mutex
	var out []*control.DumpedRank
	var errs []error
	var all sync.WaitGroup
	for _, r := range x.model.Ranks {
		if r.Worker == writer {
			continue
		}
		all.Go(func() {
			w := x.workers[r.Worker]
			d := &control.DumpedRank{Rank: uint32(r.Rank), Path: filepath.Join(dir, fmt.Sprintf(".gantry-%s-rank-%d", x.Export.Export, r.Rank))}
			answer, err := a.until(ctx, w, &control.DumpRank{Header: a.exportHeader(x, w), Export: x.Export.Export, Rank: d.Rank, Path: d.Path})
			if m, ok := answer.(*control.RankDumped); ok {
				err = m.GetError().Recover()
				d.Digest = m.GetDigest()
			} else if err == nil {
				err = recovery.Errorf(recovery.Internal, "worker %s answers a dump with %T", w.Name, answer)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				cancel()
				return
			}
			out = append(out, d)
		})
	}
	all.Wait()
	slices.SortFunc(errs, func(x, y error) int { // what ended the others comes first
		return strings.Compare(isCancelled(x), isCancelled(y))
	})
	return out, errors.Join(errs[:min(len(errs), 1)]...)
}

func isCancelled(err error) string {
	if recovery.ClassOf(err) == recovery.Cancelled {
		return "yes"
	}
	return "no"
}

// ending is an answer that says whether the work is done.
type ending interface{ GetDone() bool }

// until asks a worker until it is done, or gone.
func (a *coordinator) until(ctx context.Context, w messages.Worker, m message) (any, error) {
	for tries := 0; ; {
		answer, err := a.system.ask(ctx, workerPID(w), m, exportLimit)
		if r, ok := answer.(*control.Refused); ok {
			return nil, r.GetError().Recover()
		}
		if e, ok := answer.(ending); ok && e.GetDone() {
			return answer, nil
		}
		if tries++; err == nil {
			tries = 0
		} else if ctx.Err() != nil || tries == exportTries {
			e := &recovery.Error{Class: recovery.ClassOf(err), Op: "export", Err: err}
			if ctx.Err() == nil { // it is gone
				e.Hint = "export again; what the worker may have written lies beside the model, under names that begin with .gantry- or end in .tmp"
			}
			return nil, e
		}
		select {
		case <-time.After(exportPoll):
		case <-ctx.Done():
			return nil, recovery.Errorf(recovery.Cancelled, "the export was broken off")
		}
	}
}

// endExport has the workers forget an export and remove what they dumped.
func (a *coordinator) endExport(x *exportRun) {
	for _, w := range x.workers {
		a.system.root.Send(workerPID(w), &control.EndExport{Header: a.exportHeader(x, w), Export: x.Export.Export})
	}
}
