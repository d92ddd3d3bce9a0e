package progress

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestOverallAndStage(t *testing.T) {
	half := Counters{Planned: true, BytesRead: 50, BytesToRead: 100, BytesPlaced: 10, BytesToPlace: 40, RanksTotal: 2}
	read := half
	read.BytesRead = 100
	placed := read
	placed.BytesPlaced = 40
	one := placed
	one.RanksValidated = 1
	valid := placed
	valid.RanksValidated = 2
	ready := valid
	ready.Ready = true
	lost := half
	lost.BytesRead = -1
	for _, c := range []struct {
		name    string
		c       Counters
		overall float64
		stage   Stage
	}{
		{"nothing", Counters{}, 0, Initializing},
		{"unplanned", Counters{BytesRead: 5, BytesToRead: 5}, 0, Initializing},
		{"planned", Counters{Planned: true, BytesToRead: 1, BytesToPlace: 1, RanksTotal: 1}, .05, LoadingWeights},
		{"half read", half, .05 + .35 + .05, LoadingWeights},
		{"read", read, .05 + .70 + .05, Processing},
		{"placed", placed, .95, Validating},
		{"one rank valid", one, .97, Validating},
		{"valid", valid, .99, Completed},
		{"ready", ready, 1, Completed},
		{"nothing to do", Counters{Planned: true}, .99, Completed},
		{"below nothing", lost, .05 + .05, LoadingWeights},
	} {
		if got := c.c.Overall(); math.Abs(got-c.overall) > 1e-9 {
			t.Errorf("%s: overall %v, want %v", c.name, got, c.overall)
		}
		if got := c.c.Stage(); got != c.stage {
			t.Errorf("%s: stage %s, want %s", c.name, got, c.stage)
		}
	}
}

// What has been done never makes a load look less done.
func TestProgressOnlyGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(label string, most int64) int64 { return rapid.Int64Range(0, most).Draw(t, label) }
		a := Counters{Planned: rapid.Bool().Draw(t, "planned"), BytesToRead: n("to read", 1<<40), BytesToPlace: n("to place", 1<<40), RanksTotal: int(n("ranks", 100))}
		a.BytesRead, a.BytesPlaced, a.RanksValidated = n("read", a.BytesToRead), n("placed", a.BytesToPlace), int(n("valid", int64(a.RanksTotal)))
		b := a
		b.Planned = true
		b.BytesRead += n("more read", a.BytesToRead-a.BytesRead)
		b.BytesPlaced += n("more placed", a.BytesToPlace-a.BytesPlaced)
		b.RanksValidated += int(n("more valid", int64(a.RanksTotal-a.RanksValidated)))
		b.Ready = b.BytesRead == b.BytesToRead && b.BytesPlaced == b.BytesToPlace && b.RanksValidated == b.RanksTotal
		if x, y := a.Overall(), b.Overall(); x < 0 || y > 1 || x > y {
			t.Fatalf("overall went from %v to %v", x, y)
		}
		if slices.Index(Stages, a.Stage()) > slices.Index(Stages, b.Stage()) {
			t.Fatalf("stage went from %s to %s", a.Stage(), b.Stage())
		}
		if (b.Overall() == 1) != b.Ready {
			t.Fatalf("overall %v, ready %v", b.Overall(), b.Ready)
		}
	})
}
