package job

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
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
	lends   []int
	opened  bool // the job's driver of now knows what it holds
	driver  int  // the last that did
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
	driver  int // that the event is for
}

type world struct {
	t       *rapid.T
	j       *Job
	now     time.Time
	sites   []*site
	mail    []letter
	reads   map[int]int
	asked   map[asked]bool
	lossy   bool
	spoiled bool // something was lost: bytes may be read again
	ended   bool
	wake    time.Time // the Tick that the job asked for
	ups     []WorkerUp
	started time.Time // the driver of now
	driver  int       // its number, which fences as an epoch does
	log     []heard
	said    [][]Command
	before  []Hold      // what the driver of now was told of the one before
	again   func() *Job // makes the same job anew
}

// asked is a load that a driver has asked for.
type asked struct {
	driver int
	ref    Ref
}

// heard is an event and its time.
type heard struct {
	at time.Time
	e  Event
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
			// The first time, unless a later command of the same step has taken it back.
			if key := (asked{w.driver, c.Ref}); w.j.current(c.Ref) != nil && !w.asked[key] {
				w.asked[key] = true
				w.checkLoad(c)
			}
			w.mail = append(w.mail, letter{command: c, to: c.Ref.Worker})
		case Revoke:
			w.mail = append(w.mail, letter{command: c, to: c.Ref.Worker})
		case Seal:
			w.mail = append(w.mail, letter{command: c, to: c.Hold.Worker})
		case Free:
			w.mail = append(w.mail, letter{command: c, to: c.Hold.Worker})
		case Wake:
			w.wake = c.At
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
	if !w.now.Before(w.wake) {
		w.wake = time.Time{}
	}
	cmds := w.j.Step(w.now, e)
	w.log, w.said = append(w.log, heard{w.now, e}), append(w.said, cmds)
	w.take(cmds)
}

// replay gives a new job the same events: it must say the same.
func (w *world) replay() {
	j := w.again()
	j.Start(w.started, w.ups)
	for i, h := range w.log {
		if got := j.Step(h.at, h.e); !reflect.DeepEqual(got, w.said[i]) {
			w.t.Fatalf("event %d, %T: %v the second time, %v the first", i, h.e, got, w.said[i])
		}
	}
}

func (w *world) reply(s *site, e Event) {
	w.mail = append(w.mail, letter{event: e, from: s.id, driver: s.driver})
}

// deliver hands one letter over.
func (w *world) deliver(i int) {
	l := w.mail[i]
	w.mail = slices.Delete(w.mail, i, i+1)
	if l.event != nil {
		if s := w.find(l.from); s != nil && s.cut || l.driver != w.driver {
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
		if s.known[c.Ref] && !s.revoked[c.Ref] {
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
	if l.From == nil {
		w.reads[l.Ref.Chunk]++
	} else if !s.arenas[*l.From][l.Ref.Chunk] && (l.From.Generation > 0 || !slices.Contains(s.lends, l.From.Rank)) {
		w.reply(s, ChunkFailed{l.Ref, 0, recovery.Errorf(recovery.Stale, "no such piece here")})
		return
	}
	for _, h := range l.Dests {
		d := w.find(h.Worker)
		if d == nil || d.cut && d != s || d.arenas[h] == nil {
			w.reply(s, ChunkFailed{l.Ref, done(l).BytesRead, recovery.Errorf(recovery.Reset, "%v broke off", h.Worker)})
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
		w.step(w.up(s))
	case suspect:
		w.step(WorkerSuspect{s.id, "cut off"})
	case gone:
		w.step(WorkerLost{s.id, "lease ended"})
	}
}

// up is what a site says of itself; to a driver that has not heard it before,
// also what it holds.
func (w *world) up(s *site) WorkerUp {
	u := WorkerUp{Worker: s.id, Rooms: []Room{{Device: "cpu", Bytes: s.room}}, Window: 250, Lends: s.lends}
	if s.opened {
		return u
	}
	s.opened, s.driver, s.running = true, w.driver, nil
	clear(s.known)
	clear(s.revoked)
	holds := slices.SortedFunc(maps.Keys(s.arenas), func(a, b Hold) int { return cmp.Or(a.Rank-b.Rank, int(a.Generation)-int(b.Generation)) })
	for _, h := range holds {
		verified := true
		for c := range s.arenas[h] {
			verified = verified && checked(c)
		}
		u.Held = append(u.Held, Held{h, runsOf(w.j.plan, h.Rank, s.arenas[h]), verified})
	}
	return u
}

// runsOf are the given chunks as runs of a rank's pieces.
func runsOf(p *shard.Plan, rank int, chunks map[int]bool) (runs []Run) {
	at := 0
	for _, c := range p.Chunks {
		if !slices.ContainsFunc(c.Pieces, func(p shard.Piece) bool { return p.Rank == rank }) {
			continue
		}
		if chunks[c.ID] {
			runs = append(runs, Run{at, at + 1})
		}
		at++
	}
	return runs
}

// takeOver starts another driver of the job, which knows no more than what the
// sites that it reaches hold. Its epoch is newer: letters of before are
// dropped.
func (w *world) takeOver() {
	if !slices.ContainsFunc(w.sites, func(s *site) bool { return s.alive && !s.cut }) {
		return
	}
	w.now = w.now.Add(time.Second)
	w.mail, w.log, w.said, w.ups, w.wake, w.started = nil, nil, nil, nil, time.Time{}, w.now
	w.before = nil
	if told := w.pick("ranks that it is told of", 3); told > 0 {
		for _, r := range w.j.Ranks() { // or of some, as they were some time ago
			if told == 2 || r.Hold.Rank%2 == 0 {
				w.before = append(w.before, r.Hold)
			}
		}
	}
	w.j = w.again()
	w.driver++
	for _, s := range w.sites {
		s.opened, s.told = false, gone
		if s.alive && !s.cut {
			s.told = up
			w.ups = append(w.ups, w.up(s))
		}
	}
	w.take(w.j.Start(w.now, w.ups))
}

func (w *world) beat(s *site) {
	var refs []Ref
	for _, l := range s.running {
		refs = append(refs, l.Ref)
	}
	var sealed []int
	for h := range s.sealed {
		sealed = append(sealed, h.Rank)
	}
	slices.Sort(sealed)
	w.reply(s, Holding{Worker: s.id, Refs: refs, Sealed: sealed})
}

func newSite(name string, life uint64, room int64) *site {
	return &site{id: Worker{name, life}, room: room, alive: true, arenas: map[Hold]map[int]bool{},
		sealed: map[Hold]bool{}, known: map[Ref]bool{}, revoked: map[Ref]bool{}}
}
