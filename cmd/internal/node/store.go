package node

import (
	"context"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
)

// store is the cluster's buckets as the coordinator's actors see them.
type store struct{ c *cluster.Cluster }

func (s store) PutJob(ctx context.Context, j messages.Job, revision uint64) (uint64, error) {
	return s.c.Jobs.Put(ctx, j, revision)
}

func (s store) Jobs(ctx context.Context) ([]actors.StoredJob, error) {
	all, err := s.c.Jobs.List(ctx)
	out := make([]actors.StoredJob, len(all))
	for i, r := range all {
		out[i] = actors.StoredJob{Job: r.Value, Revision: r.Revision}
	}
	return out, err
}

func (s store) PutModel(ctx context.Context, m messages.Model, revision uint64) (uint64, error) {
	return s.c.Models.Put(ctx, m, revision)
}

func (s store) DeleteModel(ctx context.Context, name string, revision uint64) error {
	return s.c.Models.Delete(ctx, name, revision)
}

func (s store) Models(ctx context.Context) ([]actors.StoredModel, error) {
	all, err := s.c.Models.List(ctx)
	out := make([]actors.StoredModel, len(all))
	for i, r := range all {
		out[i] = actors.StoredModel{Model: r.Value, Revision: r.Revision}
	}
	return out, err
}
