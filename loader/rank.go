package loader

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// rank is one arena being filled: which of its pieces are placed, and who is
// writing the others. Each piece has at most one writer at a time.
type rank struct {
	job   string
	hold  job.Hold
	plan  *shard.Plan
	arena device.Arena

	ctx    context.Context // ends when the rank is freed
	cancel context.CancelCauseFunc
	users  sync.WaitGroup // writers and readers of the arena

	mu      sync.Mutex
	closed  bool
	sealed  *SealReport
	placed  map[int]placedPiece // by chunk
	tally   dtype.Tally         // values that are not finite, in what placed pieces were made of
	writers map[int]*writer     // by chunk
	wanted  int                 // pieces in all
}

// placedPiece is what is known of a piece that lies in the arena.
type placedPiece struct {
	digest   [16]byte
	stored   dtype.Tally // values that are not finite, in what it was made of
	verified bool        // that was checked against the source's digests
}

// order ranks attempts at a piece: by epoch, then by attempt, then by the
// sender's deliveries within one.
type order struct{ epoch, attempt, serial uint64 }

func (o order) before(p order) bool {
	return cmp.Or(cmp.Compare(o.epoch, p.epoch), cmp.Compare(o.attempt, p.attempt), cmp.Compare(o.serial, p.serial)) < 0
}

// writer is the right to write one piece. Exactly one of commit and abort
// ends it.
type writer struct {
	rank   *rank
	chunk  int
	order  order
	ctx    context.Context // ends when a later attempt takes over or the rank is freed
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// newRank makes and prefaults the arena of a hold.
func newRank(ctx context.Context, jobID string, h job.Hold, plan *shard.Plan, o NodeOptions) (*rank, error) {
	a, err := o.NewArena(h.Device, plan.Ranks[h.Rank].ArenaBytes)
	if err != nil {
		return nil, err
	}
	err = a.Prefault(ctx, 0)
	if err == nil && o.Mlock {
		err = device.Lock(a)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	r := &rank{job: jobID, hold: h, plan: plan, arena: a, placed: map[int]placedPiece{}, writers: map[int]*writer{}}
	for i := range plan.Chunks {
		if _, err := piece(plan, i, h.Rank); err == nil {
			r.wanted++
		}
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r, nil
}

// begin asks for the right to write a piece. Where the piece is placed it
// returns its digest and no writer. An earlier attempt that is still writing
// is broken off; the same one is waited for, since it may yet succeed.
func (r *rank) begin(ctx context.Context, chunk int, o order) (*writer, [16]byte, error) {
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return nil, [16]byte{}, staleHold(r.job, r.hold)
		}
		if d, ok := r.placed[chunk]; ok {
			r.mu.Unlock()
			return nil, d.digest, nil
		}
		old := r.writers[chunk]
		if old == nil {
			w := &writer{rank: r, chunk: chunk, order: o, done: make(chan struct{})}
			w.ctx, w.cancel = context.WithCancelCause(r.ctx)
			r.writers[chunk] = w
			r.users.Add(1)
			r.mu.Unlock()
			return w, [16]byte{}, nil
		}
		r.mu.Unlock()
		if o.before(old.order) {
			return nil, [16]byte{}, recovery.Errorf(recovery.Stale, "chunk %d of rank %d: attempt %d is over, attempt %d writes it",
				chunk, r.hold.Rank, o.attempt, old.order.attempt)
		}
		if old.order.before(o) {
			old.cancel(recovery.Errorf(recovery.Stale, "chunk %d of rank %d: attempt %d took over", chunk, r.hold.Rank, o.attempt))
		}
		select {
		case <-old.done:
		case <-r.ctx.Done():
		case <-ctx.Done():
			return nil, [16]byte{}, context.Cause(ctx)
		}
	}
}

// held says which pieces are placed, in runs of the rank's pieces.
func (r *rank) held() job.Held {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := job.Held{Hold: r.hold, Verified: true}
	at := 0
	for i := range r.plan.Chunks {
		if _, err := piece(r.plan, i, r.hold.Rank); err != nil {
			continue
		}
		if p, ok := r.placed[i]; ok {
			h.Verified = h.Verified && p.verified
			if n := len(h.Placed); n > 0 && h.Placed[n-1].Stop == at {
				h.Placed[n-1].Stop++
			} else {
				h.Placed = append(h.Placed, job.Run{Start: at, Stop: at + 1})
			}
		}
		at++
	}
	return h
}

// commit counts the piece as placed, unless the writer was revoked.
func (w *writer) commit(p placedPiece) error {
	w.rank.mu.Lock()
	err := context.Cause(w.ctx)
	if err == nil {
		w.rank.placed[w.chunk] = p
		w.rank.tally = w.rank.tally.Plus(p.stored)
	}
	w.rank.mu.Unlock()
	w.end()
	return err
}

// abort gives the right back with nothing placed.
func (w *writer) abort() { w.end() }

func (w *writer) end() {
	r := w.rank
	r.mu.Lock()
	delete(r.writers, w.chunk)
	r.mu.Unlock()
	w.cancel(nil)
	close(w.done)
	r.users.Done()
}

// memory returns the arena ranges of a piece, in the order of its extents; nil
// where the CPU cannot address them, and copyIn is to be used.
func (r *rank) memory(p *shard.Piece) [][]byte {
	host := r.arena.Host()
	if host == nil {
		return nil
	}
	m := make([][]byte, len(p.Extents))
	for i, e := range p.Extents {
		m[i] = host[e.Offset : e.Offset+e.Bytes : e.Offset+e.Bytes]
	}
	return m
}

// lend returns a piece that is placed, and keeps the arena from being freed
// until release is called.
func (r *rank) lend(chunk int) (p placedPiece, release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.placed[chunk]
	if r.closed || !ok {
		return p, nil, recovery.Errorf(recovery.Stale, "chunk %d of rank %d is not placed here", chunk, r.hold.Rank)
	}
	r.users.Add(1)
	return p, r.users.Done, nil
}

// copyIn copies a piece, made elsewhere, to the arena: each of its bytes once.
func (r *rank) copyIn(ctx context.Context, p *shard.Piece, mem [][]byte) error {
	for i, e := range p.Extents {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.arena.CopyIn(e.Offset, mem[i]); err != nil {
			return err
		}
	}
	return nil
}

// copyOut copies a piece from the arena.
func (r *rank) copyOut(mem [][]byte, p *shard.Piece) error {
	for i, e := range p.Extents {
		if err := r.arena.CopyOut(mem[i], e.Offset); err != nil {
			return err
		}
	}
	return nil
}

// use keeps the arena from being freed until the returned function is called.
func (r *rank) use() (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, staleHold(r.job, r.hold)
	}
	r.users.Add(1)
	return r.users.Done, nil
}

// digest returns the rank's digest: the xxh3-128 over the digests of its
// pieces, in chunk order. It fails while one is missing.
func (r *rank) digest() ([16]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.placed); n != r.wanted {
		return [16]byte{}, recovery.Errorf(recovery.Internal, "rank %d: sealed with %d of %d pieces placed", r.hold.Rank, n, r.wanted)
	}
	h := xxh3.New()
	for i := range r.plan.Chunks {
		if d, ok := r.placed[i]; ok {
			h.Write(d.digest[:])
		}
	}
	return h.Sum128().Bytes(), nil
}

// stored returns the values that are not finite in what the pieces placed so
// far were made of.
func (r *rank) stored() dtype.Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tally
}

// seal freezes the rank with what was found.
func (r *rank) seal(s SealReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = &s
}

// report returns what sealing found, nil before.
func (r *rank) report() *SealReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sealed
}

func (r *rank) isSealed() bool { return r.report() != nil }

// free gives the memory back once writers and readers are done. Writers are
// told to stop.
func (r *rank) free() error {
	a, err := r.detach()
	if err != nil {
		return nil // freed by somebody else
	}
	return a.Close()
}

// detach ends the rank's life and returns its arena.
func (r *rank) detach() (device.Arena, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, staleHold(r.job, r.hold)
	}
	r.closed = true
	r.mu.Unlock()
	r.cancel(recovery.Errorf(recovery.Stale, "rank %d in generation %d is freed", r.hold.Rank, r.hold.Generation))
	r.users.Wait()
	return r.arena, nil
}
