package job

import (
	"slices"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"pgregory.net/rapid"
)

func (w *world) pick(label string, n int) int { return rapid.IntRange(0, n-1).Draw(w.t, label) }

// trouble does one thing that nobody wanted.
func (w *world) trouble() {
	s := w.sites[w.pick("site", len(w.sites))]
	switch w.pick("trouble", 11) {
	case 0: // the process dies; its lease ends now or later
		if s.alive {
			s.alive, w.spoiled = false, true
			if rapid.Bool().Draw(w.t, "suspected first") {
				w.tell(s, suspect)
			} else {
				w.tell(s, gone)
			}
		}
	case 1: // it starts again
		if !s.alive {
			n := newSite(s.id.Name, s.id.Incarnation+1, s.room)
			*s = *n
			w.tell(s, up)
		}
	case 2: // the network breaks
		if s.alive && !s.cut {
			s.cut, w.spoiled = true, true
			w.tell(s, suspect)
		}
	case 3: // and mends
		if s.alive && s.cut {
			s.cut = false
			w.tell(s, up)
		}
	case 4: // the lease of one that nobody reaches ends
		if (s.cut || !s.alive) && s.told == suspect {
			w.tell(s, gone)
		}
	case 5: // a letter is lost or doubled
		if len(w.mail) > 0 {
			i := w.pick("letter", len(w.mail))
			w.spoiled = true
			if rapid.Bool().Draw(w.t, "doubled") {
				w.mail = append(w.mail, w.mail[i])
			} else {
				w.mail = slices.Delete(w.mail, i, i+1)
			}
		}
	case 6: // the source fails for a moment
		if s.alive && len(s.running) > 0 {
			l := s.running[w.pick("running", len(s.running))]
			w.reply(s, ChunkRetried{l.Ref, 1, recovery.Errorf(recovery.Unavailable, "503")})
		}
	case 7: // the driver dies, and another takes over
		w.takeOver()
	case 9: // a model is unloaded that a worker lent from
		s.lends = nil
	case 10: // a worker has no memory for what it reads
		if i := slices.IndexFunc(s.running, func(l Load) bool { return l.From == nil }); s.alive && i >= 0 && w.j.others(w.j.byName[s.id.Name]) {
			w.reply(s, ChunkFailed{s.running[i].Ref, 0, recovery.Errorf(recovery.OutOfCapacity, "no memory")})
			s.running = slices.Delete(s.running, i, i+1)
		}
	case 8: // a copy arrives with a flipped bit, for good
		if i := slices.IndexFunc(s.running, func(l Load) bool { return l.From != nil }); s.alive && i >= 0 {
			w.reply(s, ChunkFailed{s.running[i].Ref, 0, recovery.Errorf(recovery.DigestMismatch, "damaged")})
			s.running = slices.Delete(s.running, i, i+1)
		}
	}
}

// work does one useful thing somewhere.
func (w *world) work() {
	s := w.sites[w.pick("worker", len(w.sites))]
	switch {
	case len(w.mail) > 0 && (len(s.running) == 0 || rapid.Bool().Draw(w.t, "mail")):
		i := 0
		if w.lossy {
			i = w.pick("letter", len(w.mail))
		}
		w.deliver(i)
	case s.alive && len(s.running) > 0:
		w.finish(s, w.pick("running", len(s.running)))
	default:
		w.now = w.now.Add(200 * time.Millisecond)
		w.step(Tick{})
	}
}

// calm ends all trouble and runs the world in a fixed order until the job
// ends. It must, in bounded time.
func (w *world) calm() {
	for _, s := range w.sites {
		if !s.alive {
			w.tell(s, gone)
			*s = *newSite(s.id.Name, s.id.Incarnation+1, s.room)
			w.tell(s, up)
		} else if s.cut {
			s.cut = false
			w.tell(s, up)
		}
	}
	for round := 0; !w.ended; round++ {
		if round > 200 {
			w.t.Fatalf("stuck for %d rounds: %s, %+v, ranks %+v", round, w.j.Status(), w.j.Counters(), w.j.Ranks())
		}
		for n := len(w.mail); n > 0 && !w.ended; n-- {
			w.deliver(0)
		}
		for _, s := range w.sites {
			for len(s.running) > 0 && !w.ended {
				w.finish(s, 0)
			}
			w.beat(s)
		}
		w.now = w.now.Add(time.Second)
		if !w.ended {
			w.step(Tick{})
		}
	}
	if w.j.Status() != Ready {
		w.t.Fatalf("ended %s with room and workers for all: %v", w.j.Status(), w.j.Err())
	}
}
