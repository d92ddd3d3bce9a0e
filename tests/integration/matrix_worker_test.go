package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// beyondLease is for how long something is away that is to be given up: a lease
// is 2 s.
const beyondLease = 4 * time.Second

// workerKilled kills the worker of the first rank, which is started again after a
// while.
func workerKilled(d time.Duration) blow {
	return blow{name: fmt.Sprintf("killed-%d", int(d.Seconds())), loses: true, strike: func(s *scene, before messages.Job) {
		name := before.Ranks[0].Worker
		s.Workers[name].Kill()
		time.Sleep(d)
		s.launch(name)
	}}
}

// workerFrozen stops the worker of the first rank for a while.
func workerFrozen(d time.Duration) blow {
	return blow{name: fmt.Sprintf("frozen-%d", int(d.Seconds())), loses: d >= beyondLease, mayLose: true, strike: func(s *scene, before messages.Job) {
		s.Workers[before.Ranks[0].Worker].Freeze(d)
	}}
}

// TestMatrixWorker: a worker of the load is killed or frozen while its rank is
// being checked, and while the new model of a swap becomes the current one.
func TestMatrixWorker(t *testing.T) {
	apart(t)
	s := newScene(t)
	for _, c := range only(t, []struct {
		blow
		at moment
	}{
		{workerKilled(0), seals}, {workerKilled(0), swaps},
		{workerKilled(beyondLease), seals}, {workerFrozen(time.Second), seals}, {workerFrozen(beyondLease), seals}, {workerFrozen(30 * time.Second), seals},
		{workerKilled(beyondLease), swaps}, {workerFrozen(time.Second), swaps}, {workerFrozen(beyondLease), swaps}, {workerFrozen(30 * time.Second), swaps},
		{workerKilled(0), ends}, {workerKilled(beyondLease), ends}, {workerFrozen(beyondLease), ends},
	}, 2) {
		s.run(c.blow, c.at)
	}
	s.checkLeaks()
}
