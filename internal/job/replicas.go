package job

import (
	"cmp"
	"fmt"
	"iter"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// The copies of a dp layout have the same pieces. Of each, the source is read
// for one; the others get it from whoever has it, piece by piece as it is
// placed, in a chain: one copy of a piece is made at a time, from the arena
// that it was copied from least. So no worker sends a piece much more often
// than another, however many replicas there are, and a rank that is placed
// late, or anew, is filled without the source.

// copyTries is how often the copy of a piece may fail before it is read from
// the source instead.
const copyTries = 3

// pair links the pieces of a chunk that replicas have in common into rings.
func (j *Job) pair(c *chunk) error {
	c.unread = c.missing
	for at := c.first; at < c.stop; at++ {
		j.pieces[at].twin = at
	}
	if j.plan.Options.Layout.DP <= 1 {
		return nil
	}
	last := map[int]int{} // piece by rank of the first copy
	for at := c.first; at < c.stop; at++ {
		p := &j.pieces[at]
		first := j.plan.InFirstCopy(p.rank)
		if before, ok := last[first]; ok {
			b := &j.pieces[before]
			if b.bytes != p.bytes {
				return fmt.Errorf("ranks %d and %d are copies, and have %d and %d bytes of it", b.rank, p.rank, b.bytes, p.bytes)
			}
			p.twin, b.twin = b.twin, at
			c.unread--
		}
		last[first] = at
	}
	return nil
}

// twins goes through the pieces with the same bytes as one, beginning with it.
func (j *Job) twins(at int) iter.Seq2[int, *piece] {
	return func(yield func(int, *piece) bool) {
		for i := at; ; {
			p := &j.pieces[i]
			if !yield(i, p) {
				return
			}
			if i = p.twin; i == at {
				return
			}
		}
	}
}

// had reports whether a replica has the piece, or its own rank.
func (j *Job) had(at int) bool {
	for _, p := range j.twins(at) {
		if p.placed {
			return true
		}
	}
	return false
}

// need returns what a piece and its twins add to their chunk's unread and
// blocked.
func (j *Job) need(at int) (unread, blocked int) {
	blocked = 1
	for _, p := range j.twins(at) {
		if p.placed {
			return 0, 0
		}
		if p.open {
			blocked = 0
		}
	}
	return 1, blocked
}

// change changes placed or open of a piece, keeps what follows from them, and
// has a copy made where there is one to make.
func (j *Job) change(at int, f func(*piece)) {
	p := &j.pieces[at]
	unread, blocked := j.need(at)
	f(p)
	nowUnread, nowBlocked := j.need(at)
	ch := &j.chunks[p.chunk]
	ch.blocked += nowBlocked - blocked
	j.addUnread(ch, nowUnread-unread)
	j.refresh(p.chunk)
	j.spread(at)
}

func (j *Job) addUnread(ch *chunk, n int) {
	switch ch.unread += n; {
	case n < 0 && ch.unread == 0:
		j.counters.BytesRead += ch.bytes
	case n > 0 && ch.unread == n:
		j.counters.BytesRead -= ch.bytes
	}
}

// spread queues the next copy of a piece at a worker that has it, unless one
// is under way.
func (j *Job) spread(at int) {
	if j.pieces[at].twin == at {
		return
	}
	to := -1
	var from []*piece
	for i, p := range j.twins(at) {
		switch {
		case p.giver != nil:
			return
		case !p.open || p.asked || p.resting:
		case p.placed:
			from = append(from, p)
		case to < 0:
			to = i
		}
	}
	if to < 0 || len(from) == 0 {
		return
	}
	p := &j.pieces[to]
	best := from[0]
	for _, q := range from[1:] {
		if j.compareGivers(p, q, best) < 0 {
			best = q
		}
	}
	p.giver = j.ranks[best.rank].home
	p.giver.gives = append(p.giver.gives, to)
	j.look(p.giver)
}

// compareGivers tells which of two pieces to copy: one of the same worker,
// which sends nothing, then the one that was copied least, then that of the
// worker with less to copy.
func (j *Job) compareGivers(to, a, b *piece) int {
	home := func(p *piece) *worker { return j.ranks[p.rank].home }
	far := func(p *piece) int {
		if home(p) == home(to) {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(far(a), far(b)), cmp.Compare(a.given, b.given),
		cmp.Compare(len(home(a).gives), len(home(b).gives)), cmp.Compare(home(a).giving, home(b).giving))
}

// give has a worker copy what it should, as its credit allows.
func (j *Job) give(w *worker) {
	for len(w.gives) > 0 && w.health == up {
		at := w.gives[0]
		p := &j.pieces[at]
		due := p.giver == w && p.copy == nil
		if due && w.giving > 0 && w.giving+p.bytes > w.window {
			return
		}
		w.gives = w.gives[1:]
		if due {
			j.copy(at, w)
		}
	}
}

// copy begins the copy of a piece from an arena of w.
func (j *Job) copy(at int, w *worker) {
	p := &j.pieces[at]
	for _, from := range j.twins(at) {
		if r := &j.ranks[from.rank]; from.placed && from.open && r.home == w {
			from.given++
			p.copy = j.fly(w, &flight{chunk: p.chunk, piece: at, from: r.hold})
			return
		}
	}
}

// unqueueCopies takes back what is queued to be copied to a rank of w, or from
// it.
func (j *Job) unqueueCopies(at int, w *worker) {
	for i, p := range j.twins(at) {
		if p.copy == nil && (i == at || p.giver == w) {
			p.giver = nil
		}
	}
}

// copyFailed has a copy tried again after a pause, perhaps from another
// replica; what cannot be copied is read from the source.
func (j *Job) copyFailed(f *flight, err error) {
	p := &j.pieces[f.piece]
	j.land(f)
	if !p.open { // its worker is suspect: that is why
		j.spread(f.piece)
		return
	}
	name := f.worker.id.Name
	if j.o.Strategy.Kind == recovery.KindFailFast {
		j.failChunk(f.chunk, name, err)
		return
	}
	p.fails++
	j.retries++
	if p.fails < copyTries {
		j.emit(progress.ChunkRetry, name, p.rank, f.chunk, "copy of a replica's piece failed: %v", orUnknown(err))
		j.pause(pause{chunk: f.chunk, piece: f.piece}, p.fails)
		j.spread(f.piece) // to another
		return
	}
	j.emit(progress.ChunkRetry, name, p.rank, f.chunk, "copies of a replica's piece failed %d times, it is read from the source: %v", p.fails, orUnknown(err))
	j.part(f.piece)
}

// part takes a piece out of its ring: only a read can give it then.
func (j *Job) part(at int) {
	p := &j.pieces[at]
	next := p.twin
	for i, q := range j.twins(next) {
		if q.twin == at {
			j.pieces[i].twin = next
		}
	}
	p.twin = at
	unread, blocked := j.need(at)
	ch := &j.chunks[p.chunk]
	ch.blocked += blocked
	j.addUnread(ch, unread)
	j.refresh(p.chunk)
	j.spread(next)
}
