package actors

import (
	"sync"
	"testing"
	"time"
)

// TestTicksDoNotPileUp: an actor that has not heard one tick is sent no other.
func TestTicksDoNotPileUp(t *testing.T) {
	var ticks ticks
	tick, stop := make(chan time.Time), make(chan struct{})
	sent := 0
	var wg sync.WaitGroup
	wg.Go(func() { ticks.run(tick, stop, func() { sent++ }) })
	for range 3 {
		tick <- time.Time{}
	}
	ticks.heard() // the next that is sent is the third, if run is not done with it, or the fourth
	tick <- time.Time{}
	tick <- time.Time{}
	close(stop)
	wg.Wait()
	if sent != 2 {
		t.Errorf("%d ticks of 5 were sent, want the first and one after it was heard", sent)
	}
}
