package loader

import (
	"context"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
)

// Copy makes one try at giving a piece that is placed in an arena of this node
// to a replica of its rank, here or on another worker. Nothing is read from
// the source. What is placed is served from the moment that its digest is
// known, also while the rest of the rank is still missing; it fails with class
// stale where the piece is not placed. It retries nothing.
func (n *Node) Copy(ctx context.Context, jobID string, ref job.Ref, from job.Hold, to Dest) ([]job.PieceDone, error) {
	j, err := n.job(jobID)
	if err != nil {
		return nil, err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)

	r, err := j.hold(from)
	if err != nil {
		return nil, err
	}
	plan := j.spec.Plan
	p, err := piece(plan, ref.Chunk, from.Rank)
	switch {
	case err != nil:
		return nil, err
	case plan.InFirstCopy(from.Rank) != plan.InFirstCopy(to.Hold.Rank):
		return nil, recovery.Errorf(recovery.Usage, "rank %d is no replica of rank %d", to.Hold.Rank, from.Rank)
	case to.Addr != "" && n.opts.Sender == nil:
		return nil, recovery.Errorf(recovery.Internal, "chunk %d is to be copied to %s, but this worker sends to none", ref.Chunk, to.Addr)
	}
	placed, release, err := r.lend(ref.Chunk)
	if err != nil {
		return nil, err
	}
	defer release()
	// The arena is freed only when it is no longer sent from.
	defer context.AfterFunc(r.ctx, func() { cancel(context.Cause(r.ctx)) })()
	ticket := transfer.Ticket{
		Job: jobID, Chunk: ref.Chunk, Attempt: ref.Attempt, Epoch: j.currentEpoch(),
		Rank: to.Hold.Rank, Generation: to.Hold.Generation, Bytes: p.Bytes, Digest: placed.digest, Stored: placed.stored, Verified: placed.verified,
	}
	sender := n.opts.Sender
	if to.Addr == "" {
		sender = transfer.Local{"": n}
	}
	mem := r.memory(p)
	if mem == nil { // on a device
		buffers, err := n.staging.get(ctx, p.Bytes)
		if err != nil {
			return nil, err
		}
		defer n.staging.put(buffers[0])
		mem = split(buffers[0], p)
		if err := r.copyOut(mem, p); err != nil {
			return nil, err
		}
	}
	if err := sender.Send(ctx, to.Addr, ticket, mem); err != nil {
		return nil, ctxOr(ctx, err)
	}
	return []job.PieceDone{{Rank: to.Hold.Rank, Generation: to.Hold.Generation, Digest: placed.digest, Verified: placed.verified}}, nil
}
