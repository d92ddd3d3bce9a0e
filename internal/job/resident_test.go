package job

import (
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/shard"
)

// left is the state of a model that was ready, with each rank at a worker of
// its own, a, b, c…: what the workers but b say of themselves, and where an
// earlier driver had the ranks.
func left(p *shard.Plan) (before []Hold, there []WorkerUp, lost WorkerUp) {
	for r := range p.Ranks {
		up := cpu(string(rune('a'+r)), 1, 1000)
		h := Hold{Rank: r, Generation: 3, Worker: up.Worker, Device: "cpu"}
		up.Held = []Held{{h, []Run{{0, len(p.Chunks)}}, true}}
		before = append(before, h)
		if r == 1 {
			lost = up
		} else {
			there = append(there, up)
		}
	}
	return before, there, lost
}

// TestLostRankOfAModel: of a model that was ready the ranks that are left stay
// as they are, and what was lost is copied from its replica, or read where
// there is none.
func TestLostRankOfAModel(t *testing.T) {
	for name, c := range map[string]struct {
		plan   *shard.Plan
		copied bool
	}{
		"cut in two": {planOf(2, 6, everyone(2)), false},
		"two copies": {copies(planOf(1, 6, everyone(1)), 2), true},
	} {
		before, there, _ := left(c.plan)
		j := New(c.plan, Options{Before: before, Resident: true})
		seen := obey(j, t0, j.Start(t0, append(there, cpu("spare", 1, 1000))), nil)
		if j.Status() != Ready {
			t.Fatalf("%s: %s, %v", name, j.Status(), seen)
		}
		loads := all[Load](seen)
		if len(loads) != 6 {
			t.Errorf("%s: %d loads for 6 chunks", name, len(loads))
		}
		for _, l := range loads {
			if len(l.Dests) != 1 || l.Dests[0].Rank != 1 || l.Dests[0].Worker.Name != "spare" || (l.From != nil) != c.copied {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if h := j.Ranks()[1].Hold; h.Generation != 4 || j.Ranks()[0].Hold != before[0] {
			t.Errorf("%s: the lost rank lies in %+v, the other in %+v", name, h, j.Ranks()[0].Hold)
		}
		moved := 0
		for _, e := range all[Emit](seen) {
			if e.Kind == progress.RankMoved {
				if moved++; e.Rank != 1 || !strings.Contains(e.Reason, "worker b does not hold it any more") {
					t.Errorf("%s: %+v", name, e)
				}
			}
		}
		if moved != 1 {
			t.Errorf("%s: %d ranks are told to have moved", name, moved)
		}
	}
}

// TestLostRankWaitsForRoom: without room it waits, for ever as long as a copy
// of the model is whole; and takes back a worker that was only cut off.
func TestLostRankWaitsForRoom(t *testing.T) {
	two, cut := copies(planOf(1, 6, everyone(1)), 2), planOf(2, 6, everyone(2))
	for name, c := range map[string]struct {
		plan  *shard.Plan
		after time.Duration // time that passes before the worker is back
		want  Status
	}{
		"two copies, soon": {two, time.Second, Ready},
		"two copies, late": {two, time.Hour, Ready},
		"cut, soon":        {cut, time.Second, Ready},
		"cut, late":        {cut, time.Hour, Failed},
	} {
		before, there, lost := left(c.plan)
		j := New(c.plan, Options{Before: before, Resident: true, Patience: time.Minute})
		obey(j, t0, j.Start(t0, there), nil)
		if j.Status() != Waiting || j.Missing() == nil {
			t.Fatalf("%s: %s, %v", name, j.Status(), j.Missing())
		}
		now := t0.Add(c.after)
		obey(j, now, j.Step(now, Tick{}), nil)
		seen := obey(j, now, j.Step(now, lost), nil)
		if j.Status() != c.want || len(all[Load](seen)) != 0 {
			t.Errorf("%s: %s after %v", name, j.Status(), seen)
		}
		if c.want == Ready && j.Ranks()[1].Hold != before[1] {
			t.Errorf("%s: the rank lies in %+v", name, j.Ranks()[1].Hold)
		}
	}
}
