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

// put writes a record over a revision, over a later one that is ours, or anew
// where there is none any more: the store was lost.
func put[T any](ctx context.Context, b *cluster.Bucket[T], name string, value T, revision uint64, ours func(T) bool) (uint64, error) {
	written, err := b.Put(ctx, value, revision)
	if recovery.ClassOf(err) != recovery.Stale {
		return written, err
	}
	at, getErr := b.Get(ctx, name)
	switch {
	case recovery.ClassOf(getErr) == recovery.NotFound && revision > 0:
		return b.Put(ctx, value, 0)
	case getErr != nil || !ours(at.Value):
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

func (s store) PutModel(ctx context.Context, m messages.Model, revision uint64) (uint64, error) {
	return put(ctx, s.c.Models, m.Name, m, revision, func(at messages.Model) bool { return at.Job == m.Job })
}

// DeleteModel is no error where the record is not there.
func (s store) DeleteModel(ctx context.Context, name string, revision uint64) error {
	err := s.c.Models.Delete(ctx, name, revision)
	if recovery.ClassOf(err) == recovery.Stale {
		if _, getErr := s.c.Models.Get(ctx, name); recovery.ClassOf(getErr) == recovery.NotFound {
			return nil
		}
	}
	return err
}

func (s store) Models(ctx context.Context) ([]actors.StoredModel, error) {
	all, err := s.c.Models.List(ctx)
	out := make([]actors.StoredModel, len(all))
	for i, r := range all {
		out[i] = actors.StoredModel{Model: r.Value, Revision: r.Revision}
	}
	return out, err
}
