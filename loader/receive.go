package loader

import (
	"context"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
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
		return n.land(w, t, p)
	case digest != t.Digest:
		return nil, recovery.Errorf(recovery.DigestMismatch, "chunk %d of rank %d is placed here with another digest", t.Chunk, t.Rank)
	}
	return nil, nil
}

// land says where a piece goes: into the arena, or into pinned memory that is
// copied there.
func (n *Node) land(w *writer, t transfer.Ticket, p *shard.Piece) (transfer.Landing, error) {
	l := &landing{writer: w, ticket: t, piece: p, mem: w.rank.memory(p), staging: n.staging}
	if l.mem == nil && p.Bytes > 0 {
		var err error
		if l.pinned, _, err = n.staging.getPinned(w.ctx, p.Bytes); err != nil {
			w.abort()
			return nil, err
		}
		l.mem = split(l.pinned, p)
	}
	return l, nil
}

// landing is a piece of another worker on its way into the arena.
type landing struct {
	writer  *writer
	ticket  transfer.Ticket
	piece   *shard.Piece
	mem     [][]byte
	pinned  []byte // that mem is parts of; nil where it is the arena's own
	staging *staging
}

func (l *landing) Parts() [][]byte          { return l.mem }
func (l *landing) Context() context.Context { return l.writer.ctx }

func (l *landing) Abort() {
	l.staging.put(l.pinned)
	l.writer.abort()
}

func (l *landing) Commit(d [16]byte) error {
	defer l.staging.put(l.pinned)
	if d != l.ticket.Digest {
		l.writer.abort()
		return recovery.Errorf(recovery.DigestMismatch, "chunk %d of rank %d arrived with digest %x, its sender promised %x",
			l.ticket.Chunk, l.ticket.Rank, d, l.ticket.Digest)
	}
	if l.pinned != nil {
		if err := l.writer.rank.copyIn(l.writer.ctx, l.piece, l.mem); err != nil {
			l.writer.abort()
			return err
		}
	}
	return l.writer.commit(placedPiece{d, l.ticket.Stored, l.ticket.Verified})
}
