package job

import (
	"slices"
	"time"

	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// settle places every rank without a home, as far as there is room. It
// returns what is missing; the job then waits for it until its patience ends.
// Until it has placed all of them once it places all or none.
func (j *Job) settle() error {
	if !slices.ContainsFunc(j.ranks, func(r rank) bool { return r.home == nil }) {
		j.placeable()
		return nil
	}
	s := j.places()
	found := placement.Assign(s.ranks, s.devices)
	var err error
	if slices.Contains(found, -1) {
		err = s.noRoom(found)
		j.missing = err
		if !j.housed {
			j.waitFor(j.o.Wait)
			return err
		}
	}
	for i, d := range found {
		if r := &j.ranks[s.numbers[i]]; r.home == nil && d >= 0 {
			j.house(r, s.workers[d], s.devices[d].ID)
		}
	}
	if err != nil {
		j.waitFor(max(j.o.Patience, j.o.Wait))
		return err
	}
	j.placeable()
	return nil
}

// placeable notes that every rank has a home.
func (j *Job) placeable() {
	j.waitUntil = time.Time{}
	if !j.housed {
		j.begin()
	}
}

// waitFor bounds the wait for room, unless there is a bound already.
func (j *Job) waitFor(d time.Duration) {
	if j.waitUntil.IsZero() {
		j.waitUntil = j.now.Add(d)
		j.arm(j.waitUntil)
	}
}

// house gives a rank a new home and asks it for an arena.
func (j *Job) house(r *rank, w *worker, device string) {
	j.settleIn(r, w)
	r.hold = Hold{Rank: r.hold.Rank, Generation: r.hold.Generation + 1, Worker: w.id, Device: device}
	if r.hold.Generation > 1 {
		j.emit(progress.RankMoved, w.id.Name, r.hold.Rank, -1, "to %s on %s: %s", device, w.id.Name, r.why)
	}
	j.askPlace(r)
}

// settleIn makes w the home of a rank whose arena it has yet to show.
func (j *Job) settleIn(r *rank, w *worker) {
	r.home, r.inherited = w, false
	w.placing++
}

// evict takes a rank's home: what it holds there is forgotten. It returns the
// arena bytes that had been placed.
func (j *Job) evict(r *rank, why string) int64 {
	j.shut(r)
	lost := r.done
	for _, at := range r.pieces {
		p := &j.pieces[at]
		if p.placed {
			j.unmark(at)
		}
		if p.asked {
			j.recall(j.chunks[p.chunk].read)
		}
		if p.copy != nil {
			j.recall(p.copy)
		}
	}
	if !r.placed {
		r.home.placing--
		j.look(r.home)
	}
	j.do(Free{Hold: r.hold})
	r.home.ghosts = append(r.home.ghosts, r.hold)
	if r.sealed {
		j.sealed--
	}
	r.home, r.placed, r.sealed, r.digest, r.due, r.fails, r.why = nil, false, false, [16]byte{}, time.Time{}, 0, why
	r.hold = Hold{Rank: r.hold.Rank, Generation: r.hold.Generation}
	return lost
}

// open lets pieces be placed in a rank, and copied from it.
func (j *Job) open(r *rank) {
	if r.open || !r.placed || r.home.health != up {
		return
	}
	r.open = true
	for _, at := range r.pieces {
		if p := &j.pieces[at]; p.twin != at && j.chunks[p.chunk].phase == queued {
			j.unqueue(p.chunk) // this rank's worker has a claim to it too
		}
		j.change(at, func(p *piece) { p.open = true })
	}
}

// shut is its inverse.
func (j *Job) shut(r *rank) {
	if !r.open {
		return
	}
	r.open = false
	for _, at := range r.pieces {
		j.unlend(at, r.home)
		if p := &j.pieces[at]; p.copy == nil {
			p.giver = nil
		}
		j.change(at, func(p *piece) { p.open = false })
	}
}

func (j *Job) placed(e Placed) {
	r := j.held(e.Hold)
	if r == nil {
		j.late(e)
		return
	}
	if r.placed {
		return
	}
	r.placed, r.due, r.fails = true, time.Time{}, 0
	r.home.placing--
	j.look(r.home)
	j.counters.Planned = j.counters.Planned || !slices.ContainsFunc(j.ranks, func(r rank) bool { return !r.placed })
	j.open(r)
	j.askSeal(r) // a rank without pieces is whole at once
}

func (j *Job) placeFailed(e PlaceFailed) {
	r := j.held(e.Hold)
	if r == nil || r.placed {
		return
	}
	r.fails++
	j.exorcise(r.home)
	if j.again(r, e.Err) {
		return
	}
	j.refuse(r, "place", "no arena", orUnknown(e.Err))
}

// refuse moves a rank elsewhere because its device cannot do what it was asked.
// No more ranks are placed there, whatever its room said, until its worker says
// again what it has.
func (j *Job) refuse(r *rank, asked, lacks string, why error) {
	w, h := r.home, r.hold
	err := &recovery.Error{Class: recovery.ClassOf(why), Op: asked + " rank on " + h.Worker.Name + " " + h.Device, Err: why, Hint: "no other worker has room for it"}
	if j.o.Strategy.Kind == recovery.KindFailFast {
		err.Hint = ""
		j.fail(err)
		return
	}
	for i := range w.rooms {
		if w.rooms[i].Device == h.Device {
			w.rooms[i].Bytes = -1
		}
	}
	j.evict(r, lacks+" on "+h.Worker.Name+": "+why.Error())
	if j.settle() != nil && !j.anyLost && j.o.Wait <= 0 {
		j.fail(err)
	}
}

// again has Place or Seal tried once more after a pause, where the strategy
// says so.
func (j *Job) again(r *rank, err error) bool {
	if j.o.Strategy.ActionFor(err, r.fails) != recovery.ActionRetry {
		return false
	}
	j.askLater(r)
	return true
}

// askLater has a rank's home asked again, later each time.
func (j *Job) askLater(r *rank) {
	r.due = j.now.Add(j.o.Strategy.Backoff.Ceiling(r.fails))
	j.arm(r.due)
}

// askPlace asks a rank's home for its arena.
func (j *Job) askPlace(r *rank) {
	r.due = j.now.Add(j.o.Answer)
	j.arm(r.due)
	j.do(Place{Hold: r.hold, Bytes: r.bytes})
}

// askSeal asks for a rank to be sealed if it is whole, unless it was asked.
func (j *Job) askSeal(r *rank) {
	if !r.placed || r.missing > 0 || r.sealed || !r.due.IsZero() || r.home.health != up {
		return
	}
	r.due = j.now.Add(j.o.Answer)
	j.arm(r.due)
	j.do(Seal{Hold: r.hold})
}

func (j *Job) rankSealed(e Sealed) {
	r := j.held(e.Hold)
	if r == nil || r.sealed || !r.placed || r.missing > 0 {
		return
	}
	r.sealed, r.digest, r.due = true, e.Digest, time.Time{}
	j.sealed++
	j.emit(progress.RankSealed, e.Hold.Worker.Name, e.Hold.Rank, -1, "%s in %d pieces on %s", size(r.total), len(r.pieces), e.Hold.Device)
	j.checkReady()
}

func (j *Job) sealFailed(e SealFailed) {
	r := j.held(e.Hold)
	if r == nil || r.sealed || !r.placed || r.missing > 0 {
		return
	}
	r.fails++
	full := recovery.ClassOf(e.Err) == recovery.OutOfCapacity
	switch {
	case j.again(r, e.Err):
	case full && r.fails <= j.o.Strategy.Limit(): // the arena is there: little is needed, which may be free in a moment
		j.askLater(r)
	case full && r.refused < j.o.Strategy.Limit():
		r.refused++
		j.refuse(r, "seal", "no memory to check it", e.Err)
	default:
		j.fail(&recovery.Error{Class: recovery.ClassOf(orUnknown(e.Err)), Op: "seal rank on " + e.Hold.Worker.Name + " " + e.Hold.Device,
			Err: orUnknown(e.Err)})
	}
}
