package job

import "time"

// Workers are measured by the reads that they end. By that a worker which reads
// more slowly than others gets fewer of the chunks that others can read as well:
// it takes none from another's queue that would be done sooner there, and of its
// own it leaves to others what it would end after the rest of the load. Where
// nothing is measured yet all count as equal.

// meter measures what a worker reads while it reads anything. Old times count
// half, and half again.
type meter struct {
	bytes int64
	busy  time.Duration
	since time.Time // to here busy counts; zero: it reads nothing
}

// remembers is how long a time is measured before it counts half.
const remembers = 4 * time.Second

// pass counts the time until now, and bytes that were read in it.
func (m *meter) pass(now time.Time, bytes int64) {
	if !m.since.IsZero() {
		m.busy += now.Sub(m.since)
		m.since = now
	}
	m.bytes += bytes
	if m.busy > remembers {
		m.busy, m.bytes = m.busy/2, m.bytes/2
	}
}

// rate returns bytes per second, 0 where it is not known. Of a worker that has
// ended no read it is what it would be if all that it reads, out bytes, were
// there now.
func (m *meter) rate(now time.Time, out int64) float64 {
	busy, bytes := m.busy, m.bytes
	if !m.since.IsZero() {
		busy += now.Sub(m.since)
	}
	if bytes == 0 {
		bytes = out
	}
	if busy <= 0 {
		return 0
	}
	return float64(bytes) / busy.Seconds()
}

// pace is how fast all workers read, and the fastest, in bytes per second.
type pace struct {
	at       time.Time // when it was found
	sum, max float64
}

// paceEvery is how long a pace holds.
const paceEvery = 50 * time.Millisecond

// paceNow returns the pace. Workers whose rate is not known count as the
// fastest; where none is known, all read a byte per second.
func (j *Job) paceNow() pace {
	if !j.pace.at.IsZero() && j.now.Sub(j.pace.at) < paceEvery {
		return j.pace
	}
	p := pace{at: j.now}
	unknown := 0
	for _, w := range j.workers {
		if w.health != up || !w.full.IsZero() {
			continue
		}
		r := w.meter.rate(j.now, w.out)
		p.sum += r
		p.max = max(p.max, r)
		if r == 0 {
			unknown++
		}
	}
	if p.max == 0 {
		p.max = 1
	}
	p.sum += float64(unknown) * p.max
	j.pace = p
	return p
}

// rate returns what a worker reads in bytes per second: as good as nothing while
// its memory is full, so that others take what is in its queue.
func (j *Job) rate(w *worker) float64 {
	if !w.full.IsZero() {
		return 1
	}
	if r := w.meter.rate(j.now, w.out); r > 0 {
		return r
	}
	return j.paceNow().max
}

// leaves reports whether a worker should leave the next of its own chunks to
// others: where it would end it after all the rest is read, by all workers at
// their pace, and then that chunk by the fastest. One that is hardly slower than
// the fastest keeps its own, which need not be sent to it.
func (j *Job) leaves(w *worker, bytes int64) bool {
	p := j.paceNow()
	if 2*j.rate(w) >= p.max {
		return false
	}
	rest := float64(j.counters.BytesToRead-j.counters.BytesRead)/p.sum + float64(bytes)/p.max
	return float64(w.out+bytes)/j.rate(w) > rest
}

// takes reports whether a worker should read one more chunk of another's queue:
// when it has nothing to do and would end it before the other does, or else as
// long as it leaves there what takes as long as what it has under way.
func (j *Job) takes(w, from *worker, bytes int64) bool {
	mine, theirs := j.rate(w), j.rate(from)
	switch {
	case !w.fits(bytes):
		return false
	case w.out == 0:
		return float64(bytes)/mine <= float64(from.out+from.queued)/theirs
	}
	return float64(w.out+bytes)/mine <= float64(from.queued-bytes)/theirs
}

// slowest returns the worker whose queue takes longest, of some, in turn; nil
// where none has one.
func (j *Job) slowest() (slow *worker) {
	var most float64
	at := j.victim
	for range among {
		if at = j.laden.after(at); at < 0 {
			return nil
		}
		w := j.workers[at]
		if t := float64(w.out+w.queued) / j.rate(w); slow == nil || t > most {
			slow, most = w, t
		}
	}
	j.victim = at
	return slow
}

// among is how many queues a worker compares to take a chunk from one, and how
// many chunks of that it looks through for one that it owns a part of.
const among = 8

// choice returns which chunk of another's queue a worker reads, if any: of the
// last ones that of which it owns most, else the last.
func (j *Job) choice(w, from *worker) int {
	last := from.queue.last()
	best, most := last, int64(0)
	for c, n := last, 0; c >= 0 && n < among; c, n = from.queue.before(c), n+1 {
		ch := &j.chunks[c]
		var own int64
		for at := ch.first; at < ch.stop; at++ {
			if p := &j.pieces[at]; p.open && j.ranks[p.rank].home == w && !j.had(at) {
				own += p.bytes
			}
		}
		if own > most && ch.near < 0 {
			best, most = c, own
		}
	}
	return best
}
