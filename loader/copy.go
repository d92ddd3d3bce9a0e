package loader

import (
	"context"
	"maps"
	"slices"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
)

// Copy makes one try at giving a piece that is placed in an arena of this node
// to a replica of its rank, here or on another worker. A from without a
// generation is any sealed arena of another job that holds the same bytes
// (Lends). Nothing is read from the source. What is placed is served from the moment that its digest is
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

	plan := j.spec.Plan
	p, err := piece(plan, ref.Chunk, to.Hold.Rank)
	switch {
	case err != nil:
		return nil, err
	case from.Rank < 0 || from.Rank >= len(plan.Ranks) || plan.InFirstCopy(from.Rank) != plan.InFirstCopy(to.Hold.Rank):
		return nil, recovery.Errorf(recovery.Usage, "rank %d is no replica of rank %d", to.Hold.Rank, from.Rank)
	case to.Addr != "" && n.opts.Sender == nil:
		return nil, recovery.Errorf(recovery.Internal, "chunk %d is to be copied to %s, but this worker sends to none", ref.Chunk, to.Addr)
	}
	l, err := n.lend(j, ref.Chunk, from)
	if err != nil {
		return nil, err
	}
	defer l.release()
	// The arena is freed only when it is no longer sent from.
	defer context.AfterFunc(l.rank.ctx, func() { cancel(context.Cause(l.rank.ctx)) })()
	mem := l.rank.memory(p)
	if mem == nil { // on a device
		buffers, err := n.staging.get(ctx, p.Bytes)
		if err != nil {
			return nil, err
		}
		defer n.staging.put(buffers[0])
		mem = split(buffers[0], p)
		if err := l.rank.copyOut(mem, p); err != nil {
			return nil, err
		}
	}
	if l.foreign {
		l.digest = digestOf(mem)
	}
	ticket := transfer.Ticket{
		Job: jobID, Chunk: ref.Chunk, Attempt: ref.Attempt, Epoch: j.currentEpoch(),
		Rank: to.Hold.Rank, Generation: to.Hold.Generation, Bytes: p.Bytes, Digest: l.digest, Stored: l.stored, Verified: l.verified,
	}
	sender := n.opts.Sender
	if to.Addr == "" {
		sender = transfer.Local{"": n}
	}
	if err := sender.Send(ctx, to.Addr, ticket, mem); err != nil {
		return nil, ctxOr(ctx, err)
	}
	return []job.PieceDone{{Rank: to.Hold.Rank, Generation: to.Hold.Generation, Digest: l.digest, Verified: l.verified}}, nil
}

// loan is a piece in an arena, which is not freed until it is released. Of one
// in another job's arena the digest is not known.
type loan struct {
	placedPiece
	foreign bool
	rank    *rank
	release func()
}

// lend finds the arena that a piece is copied from.
func (n *Node) lend(j *nodeJob, chunk int, from job.Hold) (loan, error) {
	if from.Generation > 0 {
		r, err := j.hold(from)
		if err != nil {
			return loan{}, err
		}
		placed, release, err := r.lend(chunk)
		return loan{placed, false, r, release}, err
	}
	if !j.spec.Validate { // what its values were made from is not known
		if of, r, release := n.resident(j, from.Rank); r != nil {
			return loan{placedPiece{verified: of.verifies(&j.spec.Plan.Chunks[chunk])}, true, r, release}, nil
		}
	}
	return loan{}, recovery.Errorf(recovery.Stale, "no other job holds the bytes of rank %d here", from.Rank)
}

// Lends returns the ranks of a job's first copy whose bytes lie in a sealed
// arena of another job here.
func (n *Node) Lends(jobID string) (ranks []int) {
	j, err := n.job(jobID)
	if err != nil {
		return nil
	}
	defer j.leave()
	if j.spec.Validate {
		return nil
	}
	for r := range j.spec.Plan.Ranks {
		if j.spec.Plan.InFirstCopy(r) != r {
			break
		}
		if _, found, release := n.resident(j, r); found != nil {
			release()
			ranks = append(ranks, r)
		}
	}
	return ranks
}

// resident finds a sealed arena of another job with the bytes of a rank, and
// keeps it from being freed until it is released.
func (n *Node) resident(j *nodeJob, number int) (of *nodeJob, r *rank, release func()) {
	n.mu.Lock()
	others := slices.Collect(maps.Values(n.jobs))
	n.mu.Unlock()
	for _, other := range others {
		if other == j {
			continue
		}
		for _, r := range other.sealedRanks() {
			if other.fingerprint(r.hold.Rank) != j.fingerprint(number) {
				continue
			}
			if release, err := r.use(); err == nil {
				return other, r, release
			}
		}
	}
	return nil, nil, nil
}

// sealedRanks lists the ranks that are sealed.
func (j *nodeJob) sealedRanks() (ranks []*rank) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.ranks {
		if r.isSealed() {
			ranks = append(ranks, r)
		}
	}
	return ranks
}

// fingerprint names what a rank of the job holds.
func (j *nodeJob) fingerprint(number int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, ok := j.fingerprints[number]
	if !ok {
		f = j.spec.Plan.Fingerprint(number)
		j.fingerprints[number] = f
	}
	return f
}
