package node

import (
	"context"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/source"
)

// faulty returns the node, with the faults that tests want.
func (r Resources) faulty(n *loader.Node) actors.Node {
	if r.Inject == nil {
		return n
	}
	return faultyNode{n, r.Inject}
}

// faultyNode is a node whose ranks are made and sealed as rules say.
type faultyNode struct {
	*loader.Node
	faults *source.Faults
}

func (n faultyNode) Place(ctx context.Context, jobID string, h job.Hold) error {
	if err := n.faults.Before(ctx, "place", jobID); err != nil {
		return err
	}
	return n.Node.Place(ctx, jobID, h)
}

func (n faultyNode) Seal(ctx context.Context, jobID string, h job.Hold) (loader.SealReport, error) {
	if err := n.faults.Before(ctx, "seal", jobID); err != nil {
		return loader.SealReport{}, err
	}
	return n.Node.Seal(ctx, jobID, h)
}

// faultyStore is a store whose last writes for a job go as rules say: the
// model's record, which makes it the current one, and the job's.
type faultyStore struct {
	store
	faults *source.Faults
}

func (s faultyStore) PutModel(ctx context.Context, m messages.Model, revision uint64) (uint64, error) {
	if err := s.faults.Before(ctx, "record", m.Job); err != nil {
		return 0, err
	}
	return s.store.PutModel(ctx, m, revision)
}

func (s faultyStore) PutJob(ctx context.Context, j messages.Job, revision uint64) (uint64, error) {
	if j.State.Final() {
		if err := s.faults.Before(ctx, "end", j.Job); err != nil {
			return 0, err
		}
	}
	return s.store.PutJob(ctx, j, revision)
}
