package actors

import (
	"sync/atomic"
	"time"
)

// ticks tells an actor of the time, and not again before it was heard: an actor
// that is slow has at most one of them in its mailbox, and gets to what comes
// after it.
type ticks struct{ waits atomic.Bool }

// run calls send for the ticks, until stop is closed.
func (t *ticks) run(tick <-chan time.Time, stop <-chan struct{}, send func()) {
	for {
		select {
		case <-tick:
			if !t.waits.Swap(true) {
				send()
			}
		case <-stop:
			return
		}
	}
}

// heard lets the next tick come.
func (t *ticks) heard() { t.waits.Store(false) }
