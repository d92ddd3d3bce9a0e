package job

import (
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Tries is the local loop of whoever executes a Load: it counts the tries of
// one attempt that failed and decides what comes after each. The zero value
// follows the default strategy.
type Tries struct {
	Strategy recovery.Strategy
	failed   int
}

// Failed returns how many tries have failed: what ChunkRetried reports.
func (t *Tries) Failed() int { return t.failed }

// Next takes the error of a failed try. Either the work is to be tried again
// after the delay, or give up is not nil: the error for ChunkFailed.
func (t *Tries) Next(err error) (delay time.Duration, giveUp error) {
	t.failed++
	switch t.Strategy.ActionFor(err, t.failed) {
	case recovery.ActionRetry:
		return t.Strategy.Backoff.Delay(t.failed), nil
	case recovery.ActionRecover:
		if left := t.Strategy.Handler(err); left != nil {
			return 0, left
		}
		return t.Strategy.Backoff.Delay(t.failed), nil
	}
	return 0, orUnknown(err)
}
