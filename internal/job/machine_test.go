package job

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"pgregory.net/rapid"
)

// The simulated world: workers that obey the protocol over a network that
// loses, doubles, delays and reorders, and that crash, freeze and come back.
// It checks the invariants as the job goes.

// site is a worker process.
type site struct {
	id      Worker
	room    int64
	alive   bool
	cut     bool // suspect: nothing goes in or out
	told    health
	arenas  map[Hold]map[int]bool // chunks placed in each arena
	sealed  map[Hold]bool
	running []Load
	known   map[Ref]bool
	revoked map[Ref]bool
}

// letter is a message under way: a command to a site or an event to the job.
type letter struct {
	command Command
	to      Worker
	event   Event
	from    Worker
}

type world struct {
	t       *rapid.T
	j       *Job
	now     time.Time
	sites   []*site
	mail    []letter
	reads   map[int]int
	lossy   bool
	spoiled bool // something was lost: bytes may be read again
	ended   bool
	wakes   []time.Time
	steps   int
}

func (w *world) find(id Worker) *site {
	for _, s := range w.sites {
		if s.id == id && s.alive {
			return s
		}
	}
	return nil
}

// take carries commands to the mail and checks what can be checked at once.
func (w *world) take(cmds []Command) {
	for _, c := range cmds {
		if _, free := c.(Free); w.ended && !free {
			w.t.Fatalf("%T %+v after the end", c, c)
		}
		switch c := c.(type) {
		case Place:
			w.mail = append(w.mail, letter{command: c, to: c.Hold.Worker})
		case Load:
			w.mail = append(w.mail, letter{command: c, to: c.Ref.Worker})
		case Revoke:
			w.mail = append(w.mail, letter{command: c, to: c.Ref.Worker})
		case Seal:
			w.mail = append(w.mail, letter{command: c, to: c.Hold.Worker})
		case Free:
			w.mail = append(w.mail, letter{command: c, to: c.Hold.Worker})
		case Wake:
			w.wakes = append(w.wakes, c.At)
		case End:
			w.ended = true
			if c.State == Ready {
				w.checkReady()
			}
		}
	}
	w.check()
}

func (w *world) step(e Event) {
	w.steps++
	w.take(w.j.Step(w.now, e))
}

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
		var out int64
		for _, c := range x.flying {
			out += w.j.chunks[c].bytes
		}
		if out != x.out || out > x.window && len(x.flying) > 1 {
			w.t.Fatalf("%v has %d bytes in flight (%d counted) in a window of %d", x.id, out, x.out, x.window)
		}
		if x.health != up && out > 0 {
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

func (w *world) reply(s *site, e Event) { w.mail = append(w.mail, letter{event: e, from: s.id}) }

// deliver hands one letter over.
func (w *world) deliver(i int) {
	l := w.mail[i]
	w.mail = slices.Delete(w.mail, i, i+1)
	if l.event != nil {
		if s := w.find(l.from); s != nil && s.cut {
			return
		}
		w.step(l.event) // a dead worker's last words may still come
		return
	}
	s := w.find(l.to)
	if s == nil || s.cut {
		return
	}
	switch c := l.command.(type) {
	case Place:
		if s.arenas[c.Hold] == nil {
			if int64(len(s.arenas)+1)*c.Bytes > s.room {
				w.reply(s, PlaceFailed{c.Hold, recovery.Errorf(recovery.DeviceBusy, "old arenas are still there")})
				return
			}
			s.arenas[c.Hold] = map[int]bool{}
		}
		w.reply(s, Placed{c.Hold})
	case Load:
		if !s.revoked[c.Ref] {
			w.reply(s, Accepted{c.Ref})
		}
		if !s.known[c.Ref] && !s.revoked[c.Ref] {
			s.running = append(s.running, c)
		}
		s.known[c.Ref] = true
	case Revoke:
		s.revoked[c.Ref] = true
		s.running = slices.DeleteFunc(s.running, func(l Load) bool { return l.Ref == c.Ref })
	case Seal:
		a := s.arenas[c.Hold]
		if a == nil {
			return
		}
		s.sealed[c.Hold] = true
		w.reply(s, Sealed{c.Hold, [16]byte{byte(c.Hold.Rank)}})
	case Free:
		delete(s.arenas, c.Hold)
	}
}

// finish ends a running attempt of a site: its pieces go to their arenas.
func (w *world) finish(s *site, i int) {
	l := s.running[i]
	s.running = slices.Delete(s.running, i, i+1)
	w.reads[l.Ref.Chunk]++
	for _, h := range l.Dests {
		d := w.find(h.Worker)
		if d == nil || d.cut && d != s || d.arenas[h] == nil {
			w.reply(s, ChunkFailed{l.Ref, 100, recovery.Errorf(recovery.Reset, "%v broke off", h.Worker)})
			return
		}
		d.arenas[h][l.Ref.Chunk] = true
	}
	w.reply(s, done(l))
}

// tell passes news of membership on, in order: the driver's own watch.
func (w *world) tell(s *site, h health) {
	s.told = h
	switch h {
	case up:
		w.step(WorkerUp{Worker: s.id, Rooms: []Room{{Device: "cpu", Bytes: s.room}}, Window: 250})
	case suspect:
		w.step(WorkerSuspect{s.id, "cut off"})
	case gone:
		w.step(WorkerLost{s.id, "lease ended"})
	}
}

func (w *world) beat(s *site) {
	var refs []Ref
	for _, l := range s.running {
		refs = append(refs, l.Ref)
	}
	w.reply(s, Holding{s.id, refs})
}

func newSite(name string, life uint64, room int64) *site {
	return &site{id: Worker{name, life}, room: room, alive: true, arenas: map[Hold]map[int]bool{},
		sealed: map[Hold]bool{}, known: map[Ref]bool{}, revoked: map[Ref]bool{}}
}

func (w *world) pick(label string, n int) int { return rapid.IntRange(0, n-1).Draw(w.t, label) }

// trouble does one thing that nobody wanted.
func (w *world) trouble() {
	s := w.sites[w.pick("site", len(w.sites))]
	switch w.pick("trouble", 7) {
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

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: t0, reads: map[int]int{}}
	ranks := rapid.IntRange(1, 3).Draw(t, "ranks")
	n := rapid.IntRange(0, 12).Draw(t, "chunks")
	shapes := make([][]int, n)
	for c := range shapes {
		for r := range ranks {
			if rapid.Bool().Draw(t, "piece") {
				shapes[c] = append(shapes[c], r)
			}
		}
	}
	p := planOf(ranks, n, func(c int) []int { return shapes[c] })
	w.j = New(p, Options{Patience: time.Hour, Strategy: recovery.Strategy{Retries: 1000}})
	var ups []WorkerUp
	for i := range rapid.IntRange(1, 3).Draw(t, "workers") {
		// Room for all ranks and for old arenas whose Free is on its way.
		s := newSite(fmt.Sprint("w", i), 1, 1000*int64(ranks))
		w.sites = append(w.sites, s)
		ups = append(ups, WorkerUp{Worker: s.id, Rooms: []Room{{Device: "cpu", Bytes: s.room}}, Window: 250})
	}
	w.take(w.j.Start(w.now, ups))
	return w
}

func TestWorldWithTrouble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.lossy = true
		w.spoiled = true // reordering alone may make a report look lost
		n := rapid.IntRange(0, 80).Draw(t, "acts")
		for range n {
			if w.ended {
				return
			}
			if rapid.IntRange(0, 3).Draw(t, "act") == 0 {
				w.trouble()
			} else {
				w.work()
			}
		}
		w.calm()
	})
}

func TestWorldWithoutTroubleReadsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 80).Draw(t, "acts") {
			if w.ended {
				return
			}
			w.work()
		}
		w.calm()
		if w.j.BytesRead() != w.j.Counters().BytesToRead {
			t.Fatalf("read %d bytes of %d", w.j.BytesRead(), w.j.Counters().BytesToRead)
		}
	})
}
