package loader

import (
	"context"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
)

// Receive implements transfer.Sink.
func (n *Node) Receive(t transfer.Ticket) (transfer.Landing, error) {
	j, err := n.job(t.Job)
	if err != nil {
		return nil, err
	}
	defer j.leave()
	// The coordinator of a newer epoch has pieces sent here only after it has
	// opened the job here.
	if now := j.currentEpoch(); t.Epoch != now {
		return nil, recovery.Errorf(recovery.Stale, "job %q: a piece of epoch %d, %d rules", t.Job, t.Epoch, now)
	}
	r, err := j.hold(job.Hold{Rank: t.Rank, Generation: t.Generation})
	if err != nil {
		return nil, err
	}
	p, err := piece(j.spec.Plan, t.Chunk, t.Rank)
	if err != nil {
		return nil, err
	}
	if p.Bytes != t.Bytes {
		return nil, recovery.Errorf(recovery.Usage, "chunk %d of rank %d has %d bytes here and %d at its sender: their plans differ", t.Chunk, t.Rank, p.Bytes, t.Bytes)
	}
	w, digest, err := r.begin(r.ctx, t.Chunk, order{t.Epoch, t.Attempt, t.Serial})
	switch {
	case err != nil:
		return nil, err
	case w != nil:
		return &landing{writer: w, ticket: t, mem: r.memory(p)}, nil
	case digest != t.Digest:
		return nil, recovery.Errorf(recovery.DigestMismatch, "chunk %d of rank %d is placed here with another digest", t.Chunk, t.Rank)
	}
	return nil, nil
}

// landing is a piece of another worker on its way into the arena.
type landing struct {
	writer *writer
	ticket transfer.Ticket
	mem    [][]byte
}

func (l *landing) Parts() [][]byte          { return l.mem }
func (l *landing) Context() context.Context { return l.writer.ctx }
func (l *landing) Abort()                   { l.writer.abort() }

func (l *landing) Commit(d [16]byte) error {
	if d != l.ticket.Digest {
		l.writer.abort()
		return recovery.Errorf(recovery.DigestMismatch, "chunk %d of rank %d arrived with digest %x, its sender promised %x",
			l.ticket.Chunk, l.ticket.Rank, d, l.ticket.Digest)
	}
	return l.writer.commit(d, l.ticket.Stored)
}
