package job

import (
	"cmp"
	"slices"
)

// adopt takes over what workers hold from before this driver: a rank that has
// no home yet is at home there, and its placed pieces count. Of several arenas
// for a rank the newest is kept; the others, and those of ranks that have a
// home meanwhile, are freed.
func (j *Job) adopt(workers ...WorkerUp) {
	var held []Held
	for _, w := range workers {
		for _, h := range w.Held {
			if j.life(w.Worker) != nil && h.Hold.Worker == w.Worker && h.Hold.Rank >= 0 && h.Hold.Rank < len(j.ranks) {
				held = append(held, h)
			}
		}
	}
	slices.SortStableFunc(held, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Hold.Rank, b.Hold.Rank), cmp.Compare(b.Hold.Generation, a.Hold.Generation),
			cmp.Compare(a.Hold.Worker.Name, b.Hold.Worker.Name))
	})
	for _, h := range held {
		r, w := &j.ranks[h.Hold.Rank], j.life(h.Hold.Worker)
		switch {
		case r.home == nil && (h.Hold.Generation > r.hold.Generation || r.inherited && h.Hold.Generation == r.hold.Generation):
			j.moveIn(r, w, h)
		case r.hold != h.Hold:
			j.do(Free{Hold: h.Hold})
			w.ghosts = append(w.ghosts, h.Hold)
		}
	}
}

// moveIn makes a rank's arena that is there already its home.
func (j *Job) moveIn(r *rank, w *worker, h Held) {
	j.settleIn(r, w)
	r.hold = h.Hold
	for _, run := range h.Placed {
		for i := max(run.Start, 0); i < min(run.Stop, len(r.pieces)); i++ {
			if at := r.pieces[i]; !j.pieces[at].placed {
				j.unchecked = j.unchecked || !h.Verified
				j.mark(at)
			}
		}
	}
	j.askPlace(r)
}
