package loader

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/shard"
)

// shared is jobs that share turns: a simulation without time.
type shared struct {
	t       *rapid.T
	turns   *turns
	waiting map[string][]*waiter
	served  map[string]int64
	taken   int
	// since is what two jobs had had, one less the other, when the later of them
	// began to wait; pairs that do not both wait are not in it.
	since map[[2]string]int64
}

const largestTurn = 100

// settle notes who was let in, and that no job got far more than another which
// waited as well.
func (s *shared) settle() {
	for id, list := range s.waiting {
		for len(list) > 0 {
			select {
			case <-list[0].ready:
				s.served[id] += list[0].bytes
				s.taken++
				list = list[1:]
				continue
			default:
			}
			break
		}
		s.waiting[id] = list
		for _, w := range list {
			select {
			case <-w.ready:
				s.t.Fatalf("job %s: a chunk overtook those before it", id)
			default:
			}
		}
	}
	if s.taken > s.turns.limit {
		s.t.Fatalf("%d chunks are under way, of %d", s.taken, s.turns.limit)
	}
	for a := range s.waiting {
		for b := range s.waiting {
			pair := [2]string{a, b}
			before, both := s.since[pair]
			diff := s.served[a] - s.served[b]
			switch {
			case a >= b:
			case len(s.waiting[a]) == 0 || len(s.waiting[b]) == 0:
				delete(s.since, pair)
			case !both:
				s.since[pair] = diff
			case max(diff-before, before-diff) > 2*largestTurn:
				s.t.Fatalf("while both waited %s was given %d bytes more than %s", a, diff-before, b)
			}
		}
	}
}

// TestTurnsAreFair: whatever jobs want, and however large their chunks are, no
// more is under way than may be, jobs that wait get the same number of bytes up
// to a chunk of each, in the order of their own, and all of them are served.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &shared{t: t, turns: newTurns(rapid.IntRange(1, 3).Draw(t, "limit")), waiting: map[string][]*waiter{}, served: map[string]int64{}, since: map[[2]string]int64{}}
		release := func() {
			s.taken--
			s.turns.release()
			s.settle()
		}
		asked := map[string]int64{}
		for range rapid.IntRange(0, 200).Draw(t, "acts") {
			id := fmt.Sprint("j", rapid.IntRange(0, 2).Draw(t, "job"))
			switch n := rapid.IntRange(0, 9).Draw(t, "act"); {
			case n < 6:
				bytes := rapid.Int64Range(1, largestTurn).Draw(t, "bytes")
				asked[id] += bytes
				s.waiting[id] = append(s.waiting[id], s.turns.enter(id, bytes))
				s.settle()
			case n == 6 && len(s.waiting[id]) > 0: // it is revoked
				last := len(s.waiting[id]) - 1
				w := s.waiting[id][last]
				s.waiting[id] = s.waiting[id][:last]
				s.turns.leave(id, w)
				asked[id] -= w.bytes
				s.settle()
			case s.taken > 0:
				release()
			}
		}
		for s.taken > 0 {
			release()
		}
		for id, n := range asked {
			if s.served[id] != n {
				t.Fatalf("job %s was served %d bytes of %d", id, s.served[id], n)
			}
		}
	})
}

// TestSmallJobOvertakes: a job of few chunks that comes when a large one has
// all of its chunks waiting is done after as many of those.
func TestSmallJobOvertakes(t *testing.T) {
	turns := newTurns(2)
	var large, small []*waiter
	for range 1000 {
		large = append(large, turns.enter("large", 16))
	}
	for range 5 {
		small = append(small, turns.enter("small", 16))
	}
	in := func(list []*waiter) (n int) {
		for _, w := range list {
			select {
			case <-w.ready:
				n++
			default:
			}
		}
		return n
	}
	for in(small) < len(small) {
		turns.release()
	}
	if n := in(large); n > len(small)+3 {
		t.Errorf("%d chunks of the large job went before the %d of the small one", n, len(small))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns.acquire(ctx, "late", 16); err == nil {
		t.Error("it waits for ever")
	}
}

// TestLimitedJobHoldsNoOther: what waits for the rate of its job keeps nothing
// that the chunks of others need.
func TestLimitedJobHoldsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
		_, ix := open(t, path)
		plan := build(t, ix, shard.Options{Scheme: "q8_0", ChunkBytes: 64 << 10})
		beside := newTeam(t, path, plan, 1, NodeOptions{Staging: 1 << 20})
		node, hold := beside.nodes[0], beside.holds[0]
		if err := errors.Join(node.Open(t.Context(), JobSpec{ID: "slow", Epoch: 1, URI: path, Plan: plan, LimitRate: 1}),
			node.Place(t.Context(), "slow", hold)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var slow sync.WaitGroup
		for c := range plan.Chunks {
			slow.Go(func() {
				if _, _, err := node.Load(ctx, "slow", job.Ref{Chunk: c, Attempt: 1}, []Dest{{Hold: hold}}); err == nil {
					t.Errorf("chunk %d is loaded above the limit", c)
				}
			})
		}
		synctest.Wait() // all of it waits
		begun := time.Now()
		beside.load(t.Context())
		if took := time.Since(begun); took > 0 {
			t.Errorf("it waited %v for the other job", took)
		}
		cancel()
		slow.Wait()
		if err := node.Close("slow"); err != nil {
			t.Error(err)
		}
	})
}
