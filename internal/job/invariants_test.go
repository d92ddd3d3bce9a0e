package job

import (
	"time"
)

// checkReady: every rank is whole, in an arena of a worker that lives.
func (w *world) checkReady() {
	for _, r := range w.j.Ranks() {
		s := w.find(r.Hold.Worker)
		if s == nil || s.arenas[r.Hold] == nil {
			if s == nil && w.toldLost(r.Hold.Worker) {
				w.t.Fatalf("ready, but rank %d was on %v, which is known to be lost", r.Hold.Rank, r.Hold.Worker)
			}
			continue // died, and nobody could know yet
		}
		for _, ch := range w.j.plan.Chunks {
			for _, p := range ch.Pieces {
				if p.Rank == r.Hold.Rank && !s.arenas[r.Hold][ch.ID] {
					w.t.Fatalf("ready, but rank %d misses its piece of chunk %d", p.Rank, ch.ID)
				}
			}
		}
	}
	want := w.j.Counters().ChunksTotal > 0
	for _, ch := range w.j.plan.Chunks {
		want = want && (checked(ch.ID) || len(ch.Pieces) == 0)
	}
	if got := w.j.SourceVerified(); got != want {
		w.t.Fatalf("ready, source verified %v, want %v", got, want)
	}
}

func (w *world) toldLost(id Worker) bool {
	for _, s := range w.sites {
		if s.id == id {
			return s.told == gone
		}
	}
	return true
}

// check: credit, room, generations, counters.
func (w *world) check() {
	for _, x := range w.j.workers {
		var out, giving int64
		reads, copies := 0, 0
		for _, f := range x.flying {
			if f.piece < 0 {
				out += w.j.chunks[f.chunk].bytes
				reads++
			} else {
				giving += w.j.pieces[f.piece].bytes
				copies++
			}
		}
		if out != x.out || out > x.window && reads > 1 {
			w.t.Fatalf("%v reads %d bytes (%d counted) in a window of %d", x.id, out, x.out, x.window)
		}
		if giving != x.giving || giving > x.window && copies > 1 {
			w.t.Fatalf("%v copies %d bytes (%d counted) in a window of %d", x.id, giving, x.giving, x.window)
		}
		if x.health != up && len(x.flying) > 0 {
			w.t.Fatalf("%v is not up and has %d bytes in flight", x.id, out)
		}
	}
	used := map[string]int64{}
	var placed, total int64
	for i := range w.j.ranks {
		r := &w.j.ranks[i]
		placed += r.done
		total += r.total
		if r.home == nil {
			continue
		}
		used[r.hold.Worker.Name] += r.bytes
		if s := w.find(r.hold.Worker); s != nil && used[s.id.Name] > s.room {
			w.t.Fatalf("%d bytes of arenas on %v, which has %d", used[s.id.Name], s.id, s.room)
		}
	}
	if !w.ended {
		w.checkWake()
	}
	c := w.j.Counters()
	if c.BytesPlaced != placed || c.BytesToPlace != total {
		w.t.Fatalf("counters %+v, ranks %d of %d", c, placed, total)
	}
	if !w.spoiled {
		for ch, n := range w.reads {
			if n > 1 {
				w.t.Fatalf("chunk %d was read %d times and nothing was lost", ch, n)
			}
		}
	}
}

// checkLoad: a read is asked of nobody for what a replica can give, and no
// piece is asked of two at once; copies are made of what is there.
func (w *world) checkLoad(l Load) {
	for _, d := range l.Dests {
		at := w.j.find(l.Ref.Chunk, d.Rank)
		p := &w.j.pieces[at]
		if p.placed || p.asked && p.copy != nil {
			w.t.Fatalf("%+v asks for a piece that is placed, or on its way", l)
		}
		if l.From == nil && w.j.lent(at) {
			w.t.Fatalf("%+v reads what could be copied from another job's arena", l)
		}
		for _, q := range w.j.twins(at) {
			if l.From == nil && q.placed {
				w.t.Fatalf("%+v reads what rank %d has", l, q.rank)
			}
			if q != p && q.copy != nil {
				w.t.Fatalf("%+v while rank %d gets the same bytes from a replica", l, q.rank)
			}
		}
		if l.From == nil || l.From.Generation == 0 {
			continue
		}
		if r := &w.j.ranks[l.From.Rank]; r.hold != *l.From || !r.open || !w.j.pieces[w.j.find(l.Ref.Chunk, l.From.Rank)].placed {
			w.t.Fatalf("%+v copies what is not there", l)
		}
	}
}

// checkWake: whatever waits for a time, a Tick is asked for by then.
func (w *world) checkWake() {
	if !w.wake.Equal(w.j.wake) {
		w.t.Fatalf("the driver was told to wake at %v, the job counts on %v", w.wake, w.j.wake)
	}
	needs := func(what string, at time.Time) {
		if w.wake.IsZero() || w.wake.After(at) {
			w.t.Fatalf("%s is due at %v, and the next Tick is at %v", what, at, w.wake)
		}
	}
	for _, x := range w.j.workers {
		if x.health == suspect {
			needs("a suspicion", x.losesAt)
		}
		if !x.full.IsZero() {
			needs("the end of a pause", x.full)
		}
		for _, f := range x.flying {
			if !f.accepted {
				needs("a load", f.sent.Add(w.j.o.Accept))
			}
		}
	}
	for i := range w.j.ranks {
		if r := &w.j.ranks[i]; r.home != nil && r.home.health == up && !r.due.IsZero() {
			needs("a rank", r.due)
		}
	}
	for _, p := range w.j.paused {
		needs("a pause", p.until)
	}
	if !w.j.waitUntil.IsZero() {
		needs("the end of patience", w.j.waitUntil)
	}
}
