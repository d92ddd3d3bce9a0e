package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/shard"
)

// openLimit is how long a worker may take to read a checkpoint's headers.
const openLimit = 2 * time.Minute

// planner makes plans: a worker that reaches the source opens the checkpoint,
// the plan is built here from the index that it stored.
type planner struct {
	system   *System
	plans    Plans
	epoch    uint64
	strategy recovery.Strategy // of reading the headers
}

// planned is a plan, or why there is none.
type planned struct {
	index   string // digest
	plan    *shard.Plan
	digest  string               // of the plan: a large one's takes seconds
	require require.Requirements // what the model asks of workers
	err     error
}

// plan blocks until there is a plan, or nobody left to ask. Where all workers
// fail, the first failure that another try would not mend is the answer.
func (p planner) plan(ctx context.Context, jobID, uri string, o shard.Options, workers []messages.Worker) (out planned) {
	ctx, span := tracer().Start(ctx, "plan", trace.WithAttributes(attribute.String("gantry.job", jobID)))
	defer func() {
		if out.err != nil {
			span.SetStatus(codes.Error, out.err.Error())
		}
		span.End()
	}()
	out.err = recovery.Errorf(recovery.WorkerLost, "plan: no worker could be asked to open %s", uri)
	for i, w := range workers {
		digest, err := p.index(ctx, jobID, uri, w)
		if err == nil {
			out.index, out.err = digest, nil
			break
		}
		if i == 0 || recovery.ShouldRecover(out.err) {
			out.err = err
		}
	}
	if out.err != nil {
		return out
	}
	ix, err := p.plans.Index(ctx, out.index)
	if err != nil {
		out.err = err
		return out
	}
	out.require = ix.Require
	if out.plan, out.err = shard.Build(ix, o); out.err == nil {
		out.digest = out.plan.Digest()
	}
	return out
}

// index has one worker open the checkpoint.
func (p planner) index(ctx context.Context, jobID, uri string, w messages.Worker) (string, error) {
	answer, err := p.system.askAgain(ctx, workerPID(w), &control.OpenIndex{Header: commandHeader(jobID, p.epoch, w), Uri: uri, Strategy: control.FromStrategy(p.strategy)}, openLimit)
	if err != nil {
		return "", err
	}
	switch m := answer.(type) {
	case *control.IndexOpened:
		return m.GetDigest(), m.GetError().Recover()
	case *control.Refused:
		return "", m.GetError().Recover()
	}
	return "", recovery.Errorf(recovery.Internal, "worker %s answers OpenIndex with %T", w.Name, answer)
}

// workerPID names the actor of a worker. It is a new object for each use.
func workerPID(w messages.Worker) *actor.PID { return actor.NewPID(w.Address, workerID(w.Name)) }

// lifeOf is a worker's name and incarnation.
func lifeOf(w messages.Worker) job.Worker {
	return job.Worker{Name: w.Name, Incarnation: w.Incarnation}
}

// commandHeader heads a command to a worker.
func commandHeader(jobID string, epoch uint64, w messages.Worker) *control.Header {
	return &control.Header{Version: control.Version, Job: jobID, Epoch: epoch, Worker: w.Name, Incarnation: w.Incarnation}
}
