package node

import (
	"context"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// store is the cluster's buckets as the coordinator's actors see them.
type store struct{ c *cluster.Cluster }

// PutJob writes over what another write of this leader has left, the answer to
// which was lost.
func (s store) PutJob(ctx context.Context, j messages.Job, revision uint64) (uint64, error) {
	return put(ctx, s.c.Jobs, j.Job, j, revision, func(at messages.Job) bool { return at.Epoch == j.Epoch })
}

// put writes a record over a revision, or over a later one that is ours.
func put[T any](ctx context.Context, b *cluster.Bucket[T], name string, value T, revision uint64, ours func(T) bool) (uint64, error) {
	written, err := b.Put(ctx, value, revision)
	if recovery.ClassOf(err) != recovery.Stale {
		return written, err
	}
	at, getErr := b.Get(ctx, name)
	if getErr != nil || !ours(at.Value) {
		return written, err
	}
	return b.Put(ctx, value, at.Revision)
}

func (s store) Jobs(ctx context.Context) ([]actors.StoredJob, error) {
	all, err := s.c.Jobs.List(ctx)
	out := make([]actors.StoredJob, len(all))
	for i, r := range all {
		out[i] = actors.StoredJob{Job: r.Value, Revision: r.Revision}
	}
	return out, err
}

// PutModel writes a model, also where the one that it was to replace was lost.
func (s store) PutModel(ctx context.Context, m messages.Model, revision uint64) (uint64, error) {
	written, err := put(ctx, s.c.Models, m.Name, m, revision, func(at messages.Model) bool { return at.Job == m.Job })
	if revision == 0 || recovery.ClassOf(err) != recovery.Stale {
		return written, err
	}
	if _, getErr := s.c.Models.Get(ctx, m.Name); recovery.ClassOf(getErr) != recovery.NotFound {
		return written, err
	}
	return s.c.Models.Put(ctx, m, 0)
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
