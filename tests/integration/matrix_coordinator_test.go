package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// chiefKilled kills the only coordinator, which is started again after a while.
func chiefKilled(d time.Duration) blow {
	return blow{name: fmt.Sprintf("chief-killed-%d", int(d.Seconds())), strike: func(s *scene, _ messages.Job) {
		s.Coordinator.Kill()
		s.Conn.Close()
		time.Sleep(d)
		s.Restart()
	}}
}

// chiefFrozen stops it for a while.
func chiefFrozen(d time.Duration) blow {
	return blow{name: fmt.Sprintf("chief-frozen-%d", int(d.Seconds())), strike: func(s *scene, _ messages.Job) { s.Coordinator.Freeze(d) }}
}

// TestMatrixCoordinator: the only coordinator is killed and started again, or
// frozen, at each moment of a load. Nothing that is placed is read again.
func TestMatrixCoordinator(t *testing.T) {
	apart(t)
	s := newScene(t)
	type row struct {
		blow
		at moment
	}
	rows := []row{{chiefKilled(0), at50}, {chiefKilled(0), swaps}} // those of make test
	for _, m := range []moment{at5, at95, seals, ends} {
		rows = append(rows, row{chiefKilled(0), m})
	}
	for _, b := range []blow{chiefKilled(beyondLease), chiefFrozen(beyondLease)} {
		for _, m := range []moment{at5, at50, at95, seals, swaps, ends} {
			rows = append(rows, row{b, m})
		}
	}
	for _, r := range only(t, rows, 2) {
		s.run(r.blow, r.at)
	}
	s.checkLeaks()
}
