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
		for _, c := range w.flying {
			if ch := &j.chunks[c]; !ch.accepted && j.past(ch.sent.Add(j.o.Accept)) {
				j.send(c)
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
		if err := j.settle(); err != nil {
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
		for _, c := range w.flying {
			if !j.chunks[c].accepted {
				j.arm(j.chunks[c].sent.Add(j.o.Accept))
			}
		}
	}
	for i := range j.ranks {
		if r := &j.ranks[i]; !r.due.IsZero() && r.home.health == up {
			j.arm(r.due)
		}
	}
	for _, c := range j.paused {
		j.arm(j.chunks[c].resume)
	}
	if !j.waitUntil.IsZero() {
		j.arm(j.waitUntil)
	}
}

func (j *Job) past(t time.Time) bool { return !j.now.Before(t) }

// pause holds a chunk back for a time.
func (j *Job) pause(c int, d time.Duration) {
	j.chunks[c].blocked++
	j.chunks[c].resume = j.now.Add(d)
	j.paused = append(j.paused, c)
	j.arm(j.chunks[c].resume)
}

// unpause lets go of the chunks whose time has come.
func (j *Job) unpause() {
	j.paused = slices.DeleteFunc(j.paused, func(c int) bool {
		if !j.past(j.chunks[c].resume) {
			return false
		}
		j.chunks[c].blocked--
		j.refresh(c)
		return true
	})
}
