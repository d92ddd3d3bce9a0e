package job

import (
	"slices"
	"time"
)

// arm asks for a Tick at the given time, unless an earlier one is asked for:
// that one looks at everything and asks for the next.
func (j *Job) arm(at time.Time) {
	if j.wake.IsZero() || at.Before(j.wake) {
		j.wake = at
		j.do(Wake{At: at})
	}
}

// due does what its time has come for, and asks for the next Tick. Its cost
// is that of what is in flight, and it runs once a time-out, not once an event.
func (j *Job) due() {
	j.wake = time.Time{}
	for _, w := range j.workers {
		if w.health == suspect && j.past(w.losesAt) {
			j.lose(w, "it stayed out of reach for "+j.o.Patience.String())
			if j.over() {
				return
			}
			j.wait()
		}
		if !w.full.IsZero() && j.past(w.full) {
			w.full = time.Time{}
			j.look(w)
		}
		for _, f := range w.flying {
			if !f.accepted && j.past(f.sent.Add(j.o.Accept)) {
				j.send(f)
			}
		}
	}
	for i := range j.ranks {
		r := &j.ranks[i]
		if r.due.IsZero() || !j.past(r.due) || r.home.health != up {
			continue
		}
		if !r.placed {
			j.askPlace(r)
		} else {
			r.due = time.Time{}
			j.askSeal(r)
		}
	}
	j.unpause()
	if !j.waitUntil.IsZero() && j.past(j.waitUntil) {
		err := j.settle()
		switch {
		case err == nil:
		case j.o.Resident && j.wholeCopy():
			j.waitUntil = time.Time{}
			j.waitFor(j.o.Patience)
		default:
			j.fail(err)
			return
		}
	}
	j.rearm()
}

// rearm asks for a Tick at the earliest time that anything waits for.
func (j *Job) rearm() {
	for _, w := range j.workers {
		if w.health == suspect {
			j.arm(w.losesAt)
		}
		if !w.full.IsZero() {
			j.arm(w.full)
		}
		for _, f := range w.flying {
			if !f.accepted {
				j.arm(f.sent.Add(j.o.Accept))
			}
		}
	}
	for i := range j.ranks {
		if r := &j.ranks[i]; !r.due.IsZero() && r.home.health == up {
			j.arm(r.due)
		}
	}
	for _, p := range j.paused {
		j.arm(p.until)
	}
	if !j.waitUntil.IsZero() {
		j.arm(j.waitUntil)
	}
}

func (j *Job) past(t time.Time) bool { return !j.now.Before(t) }

// pause is a time in which a chunk is not read, or a piece not copied.
type pause struct {
	chunk int
	piece int // -1: the read
	until time.Time
}

// pause begins one, after so many failures.
func (j *Job) pause(p pause, failures int) {
	if p.piece < 0 {
		j.chunks[p.chunk].blocked++
	} else {
		j.pieces[p.piece].resting = true
	}
	p.until = j.now.Add(time.Duration(failures) * regroup)
	j.paused = append(j.paused, p)
	j.arm(p.until)
}

// unpause ends those whose time has come.
func (j *Job) unpause() {
	j.paused = slices.DeleteFunc(j.paused, func(p pause) bool {
		switch {
		case !j.past(p.until):
			return false
		case p.piece < 0:
			j.chunks[p.chunk].blocked--
			j.refresh(p.chunk)
		default:
			j.pieces[p.piece].resting = false
			j.spread(p.piece)
		}
		return true
	})
}
