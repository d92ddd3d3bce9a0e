package job

import (
	"slices"
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// admit takes a worker up, in a life that is new or was lost.
func (j *Job) admit(e WorkerUp) *worker {
	w := j.byName[e.Worker.Name]
	if w == nil {
		w = &worker{at: len(j.workers)}
		j.byName[e.Worker.Name] = w
		j.workers = append(j.workers, w)
	}
	if w.id.Incarnation > e.Worker.Incarnation {
		return w
	}
	if w.id != e.Worker {
		w.ghosts, w.full, w.fills = nil, time.Time{}, 0 // they died with the old life
	}
	w.id = e.Worker
	j.greet(w, e)
	return w
}

// greet notes what a worker says of itself.
func (j *Job) greet(w *worker, e WorkerUp) {
	w.health, w.losesAt = up, time.Time{}
	w.rooms, w.window = slices.Clone(e.Rooms), e.Window
	j.borrow(w, e.Lends)
	j.look(w)
}

func (j *Job) workerUp(e WorkerUp) {
	w := j.byName[e.Worker.Name]
	switch {
	case w != nil && e.Worker.Incarnation < w.id.Incarnation:
		return
	case w != nil && e.Worker == w.id && w.health != gone:
		j.greet(w, e)
		j.remind(w)
	default:
		if w != nil && w.health != gone {
			j.lose(w, "it was restarted")
			if j.over() {
				return
			}
		}
		w = j.admit(e)
		j.exorcise(w) // thawed: it still has what was moved away
		j.adopt(e)
		j.emit(progress.WorkerJoined, w.id.Name, -1, -1, "%d devices", len(w.rooms))
	}
	j.wait()
}

// exorcise has a worker free, once more, the arenas that were moved away from
// it in this life: nothing says that it heard the first time.
func (j *Job) exorcise(w *worker) {
	for _, h := range w.ghosts {
		j.do(Free{Hold: h})
	}
}

// wait places what can be placed; for the rest the job waits.
func (j *Job) wait() {
	// What is missing is said when the patience ends, as things are then.
	_ = j.settle()
}

// remind asks a worker again for all that it owes.
func (j *Job) remind(w *worker) {
	for i := range j.ranks {
		r := &j.ranks[i]
		switch {
		case r.home != w:
		case !r.placed:
			j.askPlace(r)
		default:
			j.open(r)
			r.due = time.Time{}
			j.askSeal(r)
		}
	}
	for _, f := range w.flying {
		if !f.accepted {
			j.send(f)
		}
	}
}

func (j *Job) workerSuspect(e WorkerSuspect) {
	w := j.life(e.Worker)
	if w == nil || w.health != up {
		return
	}
	j.distrust(w, suspect)
	w.losesAt = j.now.Add(j.o.Patience)
	j.arm(w.losesAt)
}

// distrust stops work for a worker and takes its attempts back.
func (j *Job) distrust(w *worker, h health) {
	w.health = h
	j.borrow(w, nil)
	j.look(w)
	for i := range j.ranks {
		if j.ranks[i].home == w {
			j.shut(&j.ranks[i])
		}
	}
	for len(w.flying) > 0 {
		j.recall(w.flying[len(w.flying)-1])
	}
	for _, other := range j.workers {
		for _, f := range slices.Clone(other.flying) {
			j.withdraw(f)
		}
	}
	// What is left in its queue was for it though all pieces are others'.
	for c := w.queue.next(0); c >= 0; c = w.queue.next(0) {
		j.unqueue(c)
		j.refresh(c)
	}
}

func (j *Job) workerLost(e WorkerLost) {
	w := j.life(e.Worker)
	if w == nil {
		return
	}
	j.lose(w, e.Reason)
	if !j.over() {
		j.wait()
	}
}

// lose forgets a worker and all that it held. Its ranks have no home then.
func (j *Job) lose(w *worker, why string) {
	used := len(w.flying) > 0
	j.distrust(w, gone)
	j.anyLost = true
	if why == "" {
		why = "no reason was given"
	}
	ranks, bytes := 0, int64(0)
	for i := range j.ranks {
		if r := &j.ranks[i]; r.home == w {
			bytes += j.evict(r, "worker "+w.id.Name+" was lost: "+why)
			ranks++
		}
	}
	j.emit(progress.WorkerLost, w.id.Name, -1, -1, "%s; with it %d ranks and %s of placed pieces", why, ranks, size(bytes))
	if (used || ranks > 0) && j.o.Strategy.Kind == recovery.KindFailFast {
		j.fail(&recovery.Error{Class: recovery.WorkerLost, Op: "load on worker " + w.id.Name, Err: recovery.Errorf(recovery.WorkerLost, "%s", why),
			Hint: "strategy recover moves its ranks to another worker"})
	}
}
