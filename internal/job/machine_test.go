package job

import (
	"fmt"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"pgregory.net/rapid"
)

// newWorld makes a world; late workers may join after the start.
func newWorld(t *rapid.T, late bool) *world {
	w := &world{t: t, now: t0, reads: map[int]int{}, asked: map[asked]bool{}}
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
	if rapid.Bool().Draw(t, "twice") {
		readTwice(p)
	}
	each := ranks
	if dp := rapid.IntRange(1, 3).Draw(t, "dp"); dp > 1 {
		p, ranks = copies(p, dp), ranks*dp
	}
	w.again = func() *Job {
		return New(p, Options{Before: w.before, Patience: time.Hour, Wait: time.Hour, RetryBudget: 1000, Strategy: recovery.Strategy{Retries: 1000}})
	}
	w.j = w.again()
	for i := range rapid.IntRange(1, 3).Draw(t, "workers") {
		// Room for all ranks and for old arenas whose Free is on its way.
		s := newSite(fmt.Sprint("w", i), 1, 1000*int64(ranks))
		if late {
			s.lends = rapid.SliceOfNDistinct(rapid.IntRange(0, each-1), 0, each, rapid.ID).Draw(t, "lends")
		}
		w.sites = append(w.sites, s)
		if late && rapid.Bool().Draw(t, "late") {
			s.alive, s.told = false, gone
			continue
		}
		w.ups = append(w.ups, w.up(s))
	}
	w.started = w.now
	w.take(w.j.Start(w.now, w.ups))
	return w
}

func TestWorldWithTrouble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, true)
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
		w.replay()
	})
}

// A driver that takes over goes on where the one before was: nothing that is
// placed is read again, however often that happens.
func TestTakingOverReadsNothingAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, false)
		for range rapid.IntRange(0, 80).Draw(t, "acts") {
			if w.ended {
				return
			}
			if rapid.IntRange(0, 9).Draw(t, "act") == 0 {
				w.takeOver()
			} else {
				w.work()
			}
		}
		w.calm() // check sees to the reads
		w.replay()
	})
}

func TestWorldWithoutTroubleReadsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, false)
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
