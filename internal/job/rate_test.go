package job

import (
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/shard"
)

// reader is a worker that reads one chunk after the other, so many bytes per
// second, and slows down at a time.
type reader struct {
	up     WorkerUp
	rate   float64
	slows  time.Duration // since the start; 0: never
	to     float64       // bytes per second then
	queue  []Load
	begun  time.Time // to read queue[0]
	bytes  int       // that it read in all
	moved  int       // of those, bytes of pieces for others
	beaten time.Time
}

// ends is when the reader is through with its first chunk.
func (r *reader) ends() time.Time {
	took := time.Duration(100 / r.rate * float64(time.Second))
	if slow := t0.Add(r.slows); r.slows > 0 && r.begun.Add(took).After(slow) {
		done := max(slow.Sub(r.begun), 0).Seconds() * r.rate
		return slow.Add(max(r.begun.Sub(slow), 0)).Add(time.Duration((100 - done) / r.to * float64(time.Second)))
	}
	return r.begun.Add(took)
}

// race runs a load over readers, in a time of its own, and returns how long it
// takes.
func race(t *testing.T, p *shard.Plan, readers ...*reader) time.Duration {
	t.Helper()
	j, now := New(p, Options{}), t0
	by := map[string]*reader{}
	var ups []WorkerUp
	for _, r := range readers {
		by[r.up.Worker.Name] = r
		ups = append(ups, r.up)
		r.beaten = now
	}
	var obey func([]Command)
	obey = func(cmds []Command) {
		for _, c := range cmds {
			switch c := c.(type) {
			case Place:
				obey(j.Step(now, Placed{c.Hold}))
			case Load:
				r := by[c.Ref.Worker.Name]
				if len(r.queue) == 0 {
					r.begun = now
				}
				r.queue = append(r.queue, c)
				obey(j.Step(now, Accepted{c.Ref}))
			case Seal:
				obey(j.Step(now, Sealed{Hold: c.Hold}))
			}
		}
	}
	obey(j.Start(now, ups))
	for !j.over() {
		var next *reader
		at := t0.Add(time.Hour)
		beats := false
		for _, r := range readers {
			if beat := r.beaten.Add(500 * time.Millisecond); beat.Before(at) {
				next, at, beats = r, beat, true
			}
			if len(r.queue) > 0 && r.ends().Before(at) {
				next, at, beats = r, r.ends(), false
			}
		}
		if now = at; now.Sub(t0) > 30*time.Minute {
			t.Fatalf("it does not end: %s, %+v", j.Status(), j.Counters())
		}
		if beats {
			next.beaten = now
			var refs []Ref
			for _, l := range next.queue {
				refs = append(refs, l.Ref)
			}
			obey(j.Step(now, Holding{Worker: next.up.Worker, Refs: refs}))
			continue
		}
		l := next.queue[0]
		next.queue, next.begun = next.queue[1:], now
		if l.From == nil {
			next.bytes += 100
			for _, h := range l.Dests {
				if h.Worker != next.up.Worker {
					next.moved += 50
				}
			}
		}
		obey(j.Step(now, done(l)))
	}
	if j.Status() != Ready {
		t.Fatalf("%s: %v", j.Status(), j.Err())
	}
	return now.Sub(t0)
}

// TestReadersByBandwidth: chunks that are tied to nobody, since all hold a part
// of each, or others than the reader do, are read by each as fast as it can,
// so that all are done at the same time; a worker that slows down keeps little.
func TestReadersByBandwidth(t *testing.T) {
	for name, c := range map[string]struct {
		plan  *shard.Plan
		room  []int64 // of each worker
		rates []float64
		slows time.Duration // the last, to a hundredth
		want  []int         // bytes that each reads, of 20000, give or take 1000; nil: any
		most  float64       // seconds
	}{
		"alike":       {planOf(2, 200, everyone(2)), []int64{1000, 1000}, []float64{1000, 1000}, 0, []int{10000, 10000}, 10.2},
		"one is slow": {planOf(2, 200, everyone(2)), []int64{1000, 1000}, []float64{1000, 250}, 0, []int{16000, 4000}, 16.6},
		// What it was asked for before anything was measured is not taken back.
		"one hardly reads": {planOf(2, 200, everyone(2)), []int64{1000, 1000}, []float64{1000, 5}, 0, []int{19700, 300}, 60},
		"slow spare":       {planOf(1, 200, everyone(1)), []int64{1000, 0}, []float64{1000, 100}, 0, []int{18200, 1800}, 18.6},
		"fast spare":       {planOf(1, 200, everyone(1)), []int64{1000, 0}, []float64{200, 1000}, 0, []int{3300, 16700}, 17.4},
		"three":            {planOf(3, 200, everyone(3)), []int64{1000, 1000, 1000}, []float64{600, 300, 100}, 0, []int{12000, 6000, 2000}, 20.8},
		"one slows down":   {planOf(2, 200, everyone(2)), []int64{1000, 1000}, []float64{1000, 1000}, 5 * time.Second, nil, 46},
	} {
		t.Run(name, func(t *testing.T) {
			var readers []*reader
			for i, rate := range c.rates {
				readers = append(readers, &reader{up: cpu(string(rune('a'+i)), 1, c.room[i]), rate: rate})
			}
			last := readers[len(readers)-1]
			last.slows, last.to = c.slows, last.rate/100
			took := race(t, c.plan, readers...).Seconds()
			var got []int
			for i, r := range readers {
				got = append(got, r.bytes)
				if c.want != nil && max(r.bytes-c.want[i], c.want[i]-r.bytes) > 1000 {
					t.Errorf("worker %d reads %d bytes, want %d", i, r.bytes, c.want[i])
				}
			}
			if took > c.most {
				t.Errorf("it takes %.1f s, want %.1f", took, c.most)
			}
			t.Logf("%.1f s, %v bytes", took, got)
		})
	}
}

// TestOwnersArePreferred: who holds the pieces reads them, so that nothing is
// moved, as long as it is no slower than others; and of what a faster one takes
// from a slower, it takes first what it has a part in.
func TestOwnersArePreferred(t *testing.T) {
	a, b := &reader{up: cpu("a", 1, 1000), rate: 1000}, &reader{up: cpu("b", 1, 1000), rate: 1000}
	race(t, planOf(2, 200, inTurn(2)), a, b)
	if a.moved+b.moved != 0 || a.bytes != b.bytes {
		t.Errorf("%d and %d bytes are read, %d moved", a.bytes, b.bytes, a.moved+b.moved)
	}
	// Rank 1, at b, has all of the later chunks, and half of one in four of them
	// is a's.
	p := planOf(2, 200, func(c int) []int {
		switch {
		case c < 100:
			return []int{0}
		case c%4 == 0:
			return []int{0, 1}
		}
		return []int{1}
	})
	for i := range p.Chunks {
		for k := range p.Chunks[i].Pieces {
			if pc := &p.Chunks[i].Pieces[k]; len(p.Chunks[i].Pieces) == 2 && pc.Rank == 1 {
				pc.Bytes = 60 // it is b's, by a little
			}
		}
	}
	fast, slow := &reader{up: cpu("a", 1, 1000), rate: 1000}, &reader{up: cpu("b", 1, 1000), rate: 250}
	race(t, p, fast, slow)
	if stolen := fast.bytes/100 - 100; stolen < 40 || fast.moved > 50*stolen || slow.moved > 50*10 {
		t.Errorf("the fast one takes %d chunks, and moves %d bytes; the slow one %d", stolen, fast.moved, slow.moved)
	}
	if !slices.Contains([]int{200}, (fast.bytes+slow.bytes)/100) {
		t.Errorf("%d bytes are read", fast.bytes+slow.bytes)
	}
}

// TestSlowWorkerAlone: a slow worker leaves nothing to others that they cannot
// take, since what only it should read lies behind it.
func TestSlowWorkerAlone(t *testing.T) {
	p := readTwice(planOf(2, 40, everyone(2)))
	for c := range 20 {
		p.Chunks[c].Segments = nil
	}
	a, b := &reader{up: cpu("a", 1, 1000), rate: 1000}, &reader{up: cpu("b", 1, 1000), rate: 10}
	race(t, p, a, b)
	if b.bytes < 1000 {
		t.Errorf("the slow worker reads %d bytes, its own are 1000", b.bytes)
	}
}
