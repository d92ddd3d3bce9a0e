package job

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

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

// had reports whether a replica has the piece, its own rank, or a lender.
func (j *Job) had(at int) bool {
	unread, _ := j.need(at)
	return unread == 0
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
	if j.lent(at) {
		return 0, 0
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
	lent := j.lent(at)
	if j.pieces[at].twin == at && !lent {
		return
	}
	to := -1
	var from []giver
	for i, p := range j.twins(at) {
		switch {
		case p.giver != nil:
			return
		case !p.open || p.asked || p.resting:
		case p.placed:
			from = append(from, giver{j.ranks[p.rank].home, p.given})
		case to < 0:
			to = i
		}
	}
	if lent && to >= 0 {
		// A lender serves its engine too: replicas come before it.
		for _, w := range j.lenders[j.plan.InFirstCopy(j.pieces[to].rank)] {
			if w.lends[j.plan.InFirstCopy(j.pieces[to].rank)] {
				from = append(from, giver{w, 1})
			}
		}
	}
	if to < 0 || len(from) == 0 {
		return
	}
	p := &j.pieces[to]
	p.giver = slices.MinFunc(from, j.ranks[p.rank].home.compareGivers).worker
	p.giver.gives = append(p.giver.gives, to)
	j.look(p.giver)
}

// giver is a worker that can copy a piece, and how often it did.
type giver struct {
	worker *worker
	given  int
}

// compareGivers tells which of two is to copy a piece to w: w itself, which
// sends nothing, then the one that did so least, then the one with less to copy.
func (w *worker) compareGivers(a, b giver) int {
	far := func(g giver) int {
		if g.worker == w {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(far(a), far(b)), cmp.Compare(a.given, b.given),
		cmp.Compare(len(a.worker.gives), len(b.worker.gives)), cmp.Compare(a.worker.giving, b.worker.giving))
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
	lent := Hold{Rank: j.plan.InFirstCopy(p.rank), Worker: w.id}
	p.copy = j.fly(w, &flight{chunk: p.chunk, piece: at, from: lent})
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
	if f.from.Generation == 0 && recovery.ClassOf(err) == recovery.Stale { // it lends no more
		j.setLend(f.worker, f.from.Rank, false)
		j.spread(f.piece)
		return
	}
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
	p.twin, p.parted = at, true
	unread, blocked := j.need(at)
	ch := &j.chunks[p.chunk]
	ch.blocked += blocked
	j.addUnread(ch, unread)
	j.refresh(p.chunk)
	j.spread(next)
}
