package loader

import (
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// slabBytes is about how much is read at once: little enough to stay in a
// core's cache, with what becomes of it, until it is transformed.
const slabBytes = 512 << 10

// mappedBytes is that of what is mapped, which costs no system call each time.
const mappedBytes = 128 << 10

// Load makes one try at a chunk: read it, transform it, place or send the
// piece of each dest. It returns the pieces and the stored bytes that it read
// (those also with an error). Pieces that are placed here already are
// reported and not written again; where none is left nothing is read. It
// retries nothing.
func (n *Node) Load(ctx context.Context, jobID string, ref job.Ref, dests []Dest) ([]job.PieceDone, int64, error) {
	j, err := n.job(jobID)
	if err != nil {
		return nil, 0, err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)

	l := &chunkLoad{node: n, job: j, ref: ref, epoch: j.currentEpoch(), stop: cancel}
	defer l.release()
	if err := l.begin(ctx, dests); err != nil {
		return nil, 0, err
	}
	if len(l.targets) == 0 {
		return l.done, 0, nil
	}
	if err := l.fill(ctx); err != nil {
		return nil, l.read, err
	}
	if err := l.commit(ctx); err != nil {
		return nil, l.read, err
	}
	if err := l.send(ctx); err != nil {
		return nil, l.read, err
	}
	return l.done, l.read, nil
}

// chunkLoad is one try at a chunk.
type chunkLoad struct {
	node  *Node
	job   *nodeJob
	ref   job.Ref
	epoch uint64

	stop    context.CancelCauseFunc // ends the load when a right to write is revoked
	chunk   *shard.Chunk
	targets []*target
	waits   bool   // it is in the lane's outbox
	out     []byte // send buffer
	pinned  []byte // pieces to be copied to devices
	read    int64  // stored bytes read
	done    []job.PieceDone
}

// begin takes the right to write each piece of this node.
func (l *chunkLoad) begin(ctx context.Context, dests []Dest) error {
	plan := l.job.spec.Plan
	for _, d := range dests {
		p, err := piece(plan, l.ref.Chunk, d.Hold.Rank)
		if err != nil {
			return err
		}
		if d.Addr != "" {
			if l.node.opts.Sender == nil {
				return recovery.Errorf(recovery.Internal, "chunk %d has a piece for %s, but this worker sends to none", l.ref.Chunk, d.Addr)
			}
			l.targets = append(l.targets, newTarget(d, p))
			continue
		}
		r, err := l.job.hold(d.Hold)
		if err != nil {
			return err
		}
		w, digest, err := r.begin(ctx, l.ref.Chunk, order{epoch: l.epoch, attempt: l.ref.Attempt})
		if err != nil {
			return err
		}
		if w == nil {
			l.place(d, digest)
			continue
		}
		t := newTarget(d, p)
		t.own(w, l.stop)
		l.targets = append(l.targets, t)
	}
	l.chunk = &plan.Chunks[l.ref.Chunk]
	return nil
}

// fill reads the chunk and transforms it into the targets' memory. All the
// staging memory that a chunk needs is asked for at once: whoever waits for
// some holds none. A chunk of a job whose rate is limited waits for that first,
// and keeps nothing from other jobs meanwhile.
func (l *chunkLoad) fill(ctx context.Context) error {
	var sent, copied int64
	for _, t := range l.targets {
		switch {
		case t.writer == nil:
			sent += t.piece.Bytes
		case t.copied:
			copied += t.piece.Bytes
		}
	}
	if err := l.job.pace.Wait(ctx, l.chunk.Stored()); err != nil {
		return err
	}
	if sent+copied > 0 {
		if err := l.job.lane.outbox.acquire(ctx, l.job.spec.ID, l.chunk.Stored()); err != nil {
			return err
		}
		l.waits = true
	}
	if err := l.job.lane.slots.acquire(ctx, l.job.spec.ID, l.chunk.Stored()); err != nil {
		return err
	}
	defer l.job.lane.slots.release()
	runs, err := planRuns(l.chunk, l.job.encoded, l.targets)
	if err != nil {
		return err
	}
	f, err := l.newFeed(ctx, runs)
	if err != nil {
		return err
	}
	pinned, buffers, err := l.node.staging.getPinned(ctx, copied, sent, f.need())
	if err != nil {
		return err
	}
	l.pinned, l.out = pinned, buffers[0]
	defer l.node.staging.put(buffers[1])
	toCopy, toSend := l.pinned, l.out
	for _, t := range l.targets {
		switch {
		case t.writer == nil:
			t.mem, toSend = split(toSend, t.piece), toSend[t.piece.Bytes:]
		case t.copied:
			t.mem, toCopy = split(toCopy, t.piece), toCopy[t.piece.Bytes:]
		}
	}
	return f.run(ctx, buffers[1])
}

// commit counts the pieces of this node as placed. Those of devices are copied
// there first, which other chunks need no slot for; their buffer is given back
// before anything is sent, since whoever is sent something may be waiting to
// send here.
func (l *chunkLoad) commit(ctx context.Context) error {
	copies, ctx := errgroup.WithContext(ctx)
	for _, t := range l.targets {
		if t.copied {
			copies.Go(func() error { return t.writer.rank.copyIn(ctx, t.piece, t.mem) })
		}
	}
	if err := copies.Wait(); err != nil {
		return err
	}
	var errs []error
	for _, t := range l.targets {
		if t.writer == nil {
			continue
		}
		d := t.digest()
		if err := t.disown().commit(placedPiece{d, t.stored, l.verified()}); err != nil {
			errs = append(errs, err)
		} else {
			l.place(t.dest, d)
		}
	}
	l.node.staging.put(l.pinned)
	l.pinned = nil
	return errors.Join(errs...)
}

// send delivers the pieces of other workers, to all of them at once.
func (l *chunkLoad) send(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(l.targets))
	for i, t := range l.targets {
		if t.dest.Addr == "" {
			continue
		}
		ticket := transfer.Ticket{
			Job: l.job.spec.ID, Chunk: l.ref.Chunk, Attempt: l.ref.Attempt, Epoch: l.epoch,
			Rank: t.dest.Hold.Rank, Generation: t.dest.Hold.Generation, Bytes: t.piece.Bytes, Digest: t.digest(), Stored: t.stored, Verified: l.verified(),
		}
		wg.Go(func() {
			errs[i] = l.node.opts.Sender.Send(ctx, t.dest.Addr, ticket, t.mem)
		})
	}
	wg.Wait()
	for i, t := range l.targets {
		if errs[i] != nil {
			return ctxOr(ctx, errs[i])
		}
		if t.dest.Addr != "" {
			l.place(t.dest, t.digest())
		}
	}
	return nil
}

func (l *chunkLoad) place(d Dest, digest [16]byte) {
	l.done = append(l.done, job.PieceDone{Rank: d.Hold.Rank, Generation: d.Hold.Generation, Digest: digest, Verified: l.verified()})
}

// verified says whether what is read is checked against the source's digests.
func (l *chunkLoad) verified() bool { return l.job.verifies(&l.job.spec.Plan.Chunks[l.ref.Chunk]) }

// verifies says whether what the job reads of a chunk is checked against the
// source's digests.
func (j *nodeJob) verifies(c *shard.Chunk) bool {
	return j.covered[c.File] && !slices.ContainsFunc(c.Also, func(r shard.Run) bool { return !j.covered[r.File] })
}

// release gives back what the load still holds.
func (l *chunkLoad) release() {
	for _, t := range l.targets {
		if t.writer != nil {
			t.disown().abort()
		}
	}
	l.node.staging.put(l.pinned)
	l.node.staging.put(l.out)
	if l.waits {
		l.job.lane.outbox.release()
	}
}
