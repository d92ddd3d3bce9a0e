package job

import (
	"time"

	"github.com/gantry-ml/gantry/shard"
)

// A chunk is queued at the worker that owns most of what it leaves, in the
// plan's order. A worker takes from its own queue as its credit allows, and
// from the end of another's when its own is empty: what it takes there must be
// sent to the other, so at the end of a load it takes little of what little is
// left. Who reads fast takes more than who reads slowly (rate.go).

// refresh puts a chunk where it belongs after something about it changed.
func (j *Job) refresh(c int) {
	ch := &j.chunks[c]
	switch {
	case ch.phase == flying:
	case ch.unread > 0 && ch.blocked == 0 && ch.phase == pending:
		w := j.owner(c)
		ch.phase, ch.worker = queued, w.at
		w.queue.reserve(len(j.chunks))
		w.queue.add(c)
		w.queued += ch.bytes
		j.laden.add(w.at)
		j.look(w)
	case (ch.unread == 0 || ch.blocked > 0) && ch.phase == queued:
		j.unqueue(c)
	}
}

// unqueue takes a chunk out of its queue.
func (j *Job) unqueue(c int) {
	j.chunks[c].phase = pending
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
// the one that holds most bytes of what is unread. Where several do, it is the
// one that would be done with it first, or they take turns by chunk.
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
	for at := ch.first; at < ch.stop; at++ {
		if p := &j.pieces[at]; p.open && !j.had(at) {
			w := j.ranks[p.rank].home.at
			j.scratch[w] += p.bytes + 1 // a worker of empty pieces counts too
			most = max(most, j.scratch[w])
		}
	}
	var best []int
	for at := ch.first; at < ch.stop; at++ {
		if p := &j.pieces[at]; p.open && !j.had(at) {
			w := j.ranks[p.rank].home.at
			if j.scratch[w] == most {
				best = append(best, w)
			}
			j.scratch[w] = 0
		}
	}
	first := j.workers[best[c%len(best)]]
	for _, at := range best {
		if w := j.workers[at]; float64(w.out+w.queued+ch.bytes)/j.rate(w) < float64(first.out+first.queued+ch.bytes)/j.rate(first) {
			first = w
		}
	}
	return first
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
		j.give(j.workers[at])
	}
	j.hungry = j.hungry[:0]
	for {
		thief := j.idle.after(j.turn)
		if thief < 0 {
			return
		}
		victim := j.slowest()
		if victim == nil {
			return
		}
		j.turn = thief
		c := j.choice(j.workers[thief], victim)
		// A tensor that is read twice would be read once more by another.
		if j.chunks[c].near >= 0 || !j.takes(j.workers[thief], victim, j.chunks[c].bytes) {
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
			if w.placing == 0 { // or it will have work of its own
				j.idle.add(w.at)
			}
			return
		}
		ch := &j.chunks[c]
		if !w.fits(ch.bytes) {
			return
		}
		// It leaves chunks only where others may take the last of its queue.
		if ch.near < 0 && j.chunks[w.queue.last()].near < 0 && j.leaves(w, ch.bytes) {
			return
		}
		j.launch(c, w)
	}
}

// launch begins the read of a queued chunk.
func (j *Job) launch(c int, w *worker) {
	j.unqueue(c)
	ch := &j.chunks[c]
	ch.phase = flying
	j.ask(c, w)
	ch.read = j.fly(w, &flight{chunk: c, piece: -1})
}

// ask notes which pieces the read of a chunk by a worker is to place: of what
// is unread those at that worker, or else at one of the others, in turn. From
// there it is copied to the replicas.
func (j *Job) ask(c int, w *worker) {
	ch := &j.chunks[c]
	for at := ch.first; at < ch.stop; at++ {
		p := &j.pieces[at]
		p.asked = p.open && j.ranks[p.rank].home == w && !j.had(at)
	}
	for at := ch.first; at < ch.stop; at++ {
		var open []*piece
		asked := j.had(at)
		for _, p := range j.twins(at) {
			asked = asked || p.asked
			if p.open {
				open = append(open, p)
			}
		}
		if !asked {
			open[c%len(open)].asked = true
		}
	}
}

// fly makes f the next attempt at its chunk, by w.
func (j *Job) fly(w *worker, f *flight) *flight {
	ch := &j.chunks[f.chunk]
	ch.attempt++
	f.number, f.worker, f.slot = ch.attempt, w, len(w.flying)
	w.flying = append(w.flying, f)
	if f.piece < 0 {
		if w.out == 0 {
			w.meter.since = j.now
		}
		w.out += ch.bytes
	} else {
		w.giving += j.pieces[f.piece].bytes
	}
	j.flights[attempt{f.chunk, f.number}] = f
	j.send(f)
	return f
}

// send asks the worker of an attempt to make it.
func (j *Job) send(f *flight) {
	load := Load{Ref: f.ref()}
	if f.piece >= 0 {
		load.From, load.Dests = &f.from, []Hold{j.ranks[j.pieces[f.piece].rank].hold}
	} else {
		ch := &j.chunks[f.chunk]
		for at := ch.first; at < ch.stop; at++ {
			if j.pieces[at].asked {
				load.Dests = append(load.Dests, j.ranks[j.pieces[at].rank].hold)
			}
		}
	}
	f.sent = j.now
	j.arm(j.now.Add(j.o.Accept))
	j.do(load)
}

// land ends an attempt: its worker's credit returns.
func (j *Job) land(f *flight) {
	w := f.worker
	last := w.flying[len(w.flying)-1]
	w.flying[f.slot], last.slot = last, f.slot
	w.flying = w.flying[:len(w.flying)-1]
	delete(j.flights, attempt{f.chunk, f.number})
	j.look(w)
	ch := &j.chunks[f.chunk]
	if f.piece >= 0 {
		p := &j.pieces[f.piece]
		w.giving -= p.bytes
		p.copy, p.giver = nil, nil
		return
	}
	w.meter.pass(j.now, f.read)
	if w.out -= ch.bytes; w.out == 0 {
		w.meter.since = time.Time{}
	}
	ch.phase, ch.read = pending, nil
	for at := ch.first; at < ch.stop; at++ {
		if p := &j.pieces[at]; p.asked {
			p.asked = false
			j.spread(at)
		}
	}
}

// recall takes an attempt back, for what it was to do to be done anew.
func (j *Job) recall(f *flight) {
	j.do(Revoke{Ref: f.ref()})
	j.land(f)
	j.resume(f)
}

// resume has done anew what an attempt that has landed did not do.
func (j *Job) resume(f *flight) {
	if f.piece < 0 {
		j.refresh(f.chunk)
	} else {
		j.spread(f.piece)
	}
}
