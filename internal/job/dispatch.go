package job

import (
	"time"

	"github.com/gantry-ml/gantry/shard"
)

// A chunk is queued at the worker that owns most of what it leaves, in the
// plan's order. A worker takes from its own queue as its credit allows, and
// from the end of another's when its own is empty: what it takes there must be
// sent to the other, so at the end of a load it takes little of what little is
// left.

// refresh puts a chunk where it belongs after something about it changed.
func (j *Job) refresh(c int) {
	ch := &j.chunks[c]
	switch {
	case ch.phase == flying || ch.phase == finished:
	case ch.blocked == 0 && ch.phase == pending:
		w := j.owner(c)
		ch.phase, ch.worker = queued, w.at
		w.queue.reserve(len(j.chunks))
		w.queue.add(c)
		w.queued += ch.bytes
		j.laden.add(w.at)
		j.look(w)
	case ch.blocked > 0 && ch.phase == queued:
		ch.phase = pending
		j.unqueue(c)
	}
}

// unqueue takes a chunk out of its queue.
func (j *Job) unqueue(c int) {
	w := j.workers[j.chunks[c].worker]
	w.queue.remove(c)
	w.queued -= j.chunks[c].bytes
	if w.queue.empty() {
		j.laden.remove(w.at)
	}
}

// near returns the rank whose worker should read a chunk of a tensor that is
// read twice: the same for all of its chunks, and another for each tensor. It
// is -1 for other chunks.
func near(p *shard.Plan, c *shard.Chunk) int {
	for _, s := range c.Segments {
		if !p.ReadTwice(s.Tensor) {
			continue
		}
		var holders []int
		for i := range p.Ranks {
			if len(p.Ranks[i].SlicesOf(s.Tensor)) > 0 {
				holders = append(holders, i)
			}
		}
		if len(holders) > 0 {
			return holders[s.Tensor%len(holders)]
		}
	}
	return -1
}

// owner returns the worker that should read a chunk: the one near it, or else
// the one that holds most bytes of its missing pieces, all of which have a
// home. Where several do, they take turns by chunk.
func (j *Job) owner(c int) *worker {
	ch := &j.chunks[c]
	if ch.near >= 0 {
		if w := j.ranks[ch.near].home; w != nil && w.health == up {
			return w
		}
	}
	for len(j.scratch) < len(j.workers) {
		j.scratch = append(j.scratch, 0)
	}
	var most int64
	for p := ch.first; p < ch.stop; p++ {
		if pc := &j.pieces[p]; !pc.placed {
			at := j.ranks[pc.rank].home.at
			j.scratch[at] += pc.bytes + 1 // a worker of empty pieces counts too
			most = max(most, j.scratch[at])
		}
	}
	var best []int
	for p := ch.first; p < ch.stop; p++ {
		if pc := &j.pieces[p]; !pc.placed {
			at := j.ranks[pc.rank].home.at
			if j.scratch[at] == most {
				best = append(best, at)
			}
			j.scratch[at] = 0
		}
	}
	return j.workers[best[c%len(best)]]
}

// look has pump look at a worker whose queue, credit or health changed.
func (j *Job) look(w *worker) {
	if !w.hungry {
		w.hungry = true
		j.hungry = append(j.hungry, w.at)
	}
}

// pump dispatches what credit allows. Each round dispatches a chunk or finds
// a worker full, so its cost is that of its results.
func (j *Job) pump() {
	for _, at := range j.hungry {
		j.workers[at].hungry = false
		j.feed(j.workers[at])
	}
	j.hungry = j.hungry[:0]
	for {
		thief, victim := j.idle.after(j.turn), j.laden.after(j.turn)
		if thief < 0 || victim < 0 {
			return
		}
		j.turn = thief
		c := j.workers[victim].queue.last()
		// A tensor that is read twice would be read once more by another.
		if j.chunks[c].near >= 0 || !j.workers[thief].takes(j.chunks[c].bytes, j.workers[victim].queued) {
			j.idle.remove(thief)
			continue
		}
		j.launch(c, j.workers[thief])
	}
}

// feed gives a worker from its own queue.
func (j *Job) feed(w *worker) {
	j.idle.remove(w.at)
	if w.health != up {
		return
	}
	for {
		c := w.queue.next(0)
		if c < 0 {
			j.idle.add(w.at)
			return
		}
		if !w.fits(j.chunks[c].bytes) {
			return
		}
		j.launch(c, w)
	}
}

// launch begins an attempt at a queued chunk.
func (j *Job) launch(c int, w *worker) {
	j.unqueue(c)
	ch := &j.chunks[c]
	ch.phase, ch.worker, ch.slot = flying, w.at, len(w.flying)
	ch.attempt++
	ch.accepted, ch.failed, ch.absent = false, 0, time.Time{}
	w.flying = append(w.flying, c)
	w.out += ch.bytes
	for p := ch.first; p < ch.stop; p++ {
		j.pieces[p].asked = !j.pieces[p].placed
	}
	j.send(c)
}

// send asks the worker of the current attempt to load the chunk.
func (j *Job) send(c int) {
	ch := &j.chunks[c]
	var dests []Hold
	for p := ch.first; p < ch.stop; p++ {
		if j.pieces[p].asked {
			dests = append(dests, j.ranks[j.pieces[p].rank].hold)
		}
	}
	ch.sent = j.now
	j.arm(j.now.Add(j.o.Accept))
	j.do(Load{Ref: j.ref(c), Dests: dests})
}

// land ends the attempt under way at a chunk: its worker's credit returns.
func (j *Job) land(c int) {
	ch := &j.chunks[c]
	w := j.workers[ch.worker]
	last := w.flying[len(w.flying)-1]
	w.flying[ch.slot] = last
	j.chunks[last].slot = ch.slot
	w.flying = w.flying[:len(w.flying)-1]
	w.out -= ch.bytes
	for p := ch.first; p < ch.stop; p++ {
		j.pieces[p].asked = false
	}
	ch.phase = pending
	j.look(w)
}

// recall takes the attempt under way at a chunk back, to be dispatched anew.
func (j *Job) recall(c int) {
	j.do(Revoke{Ref: j.ref(c)})
	j.land(c)
	j.refresh(c)
}
