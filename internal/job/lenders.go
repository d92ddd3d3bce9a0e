package job

// A worker may hold the bytes of a rank for another job already: the model is
// resident there, and loaded once more for other workers. It lends them: what
// it can copy is not read.

// lent reports whether a piece can be copied from an arena of another job.
func (j *Job) lent(at int) bool {
	p := &j.pieces[at]
	if len(j.lenders) == 0 || p.parted {
		return false
	}
	first := j.plan.InFirstCopy(p.rank)
	for _, w := range j.lenders[first] {
		if w.lends[first] {
			return true
		}
	}
	return false
}

// borrow notes what a worker lends from now on.
func (j *Job) borrow(w *worker, ranks []int) {
	now := map[int]bool{}
	for _, r := range ranks {
		if r >= 0 && r < len(j.ranks) && j.plan.InFirstCopy(r) == r {
			now[r] = true
		}
	}
	for first := range j.ranks {
		if w.lends[first] != now[first] {
			j.setLend(w, first, now[first])
		}
	}
}

// setLend notes whether a worker lends a rank of the first copy.
func (j *Job) setLend(w *worker, first int, on bool) {
	if w.lends == nil {
		w.lends = map[int]bool{}
	}
	if _, known := w.lends[first]; !known {
		j.lenders[first] = append(j.lenders[first], w)
	}
	w.lends[first] = !on
	for i := range j.ranks {
		if j.plan.InFirstCopy(i) != first {
			continue
		}
		for _, at := range j.ranks[i].pieces {
			if !j.leads(at) {
				continue
			}
			if !on {
				j.revokeLent(at, w)
				j.unlend(at, w)
			}
			// One ring after the other, each as it was before.
			w.lends[first] = !on
			j.change(at, func(*piece) { w.lends[first] = on })
		}
	}
	w.lends[first] = on
}

// leads reports whether a piece is the first of its ring.
func (j *Job) leads(at int) bool {
	for i := range j.twins(at) {
		if i < at {
			return false
		}
	}
	return true
}

// revokeLent ends the copy of a piece that w makes from an arena that it lends.
func (j *Job) revokeLent(at int, w *worker) {
	for _, p := range j.twins(at) {
		if f := p.copy; f != nil && f.worker == w && f.from.Generation == 0 {
			j.do(Revoke{Ref: f.ref()})
			j.land(f)
		}
	}
}

// unlend takes back the copies that w should make of a piece.
func (j *Job) unlend(at int, w *worker) {
	for _, p := range j.twins(at) {
		if p.giver == w && p.copy == nil {
			p.giver = nil
		}
	}
}
