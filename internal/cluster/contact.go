package cluster

import (
	"sync"
	"time"
)

// contact remembers when NATS last answered a renewal of this process's lease,
// and when it last did so after a silence. While NATS was silent others could
// not renew theirs either, so that the end of a lease says nothing then.
type contact struct {
	mu   sync.Mutex
	last time.Time // it answered
	back time.Time // it answered after a silence
}

// heard notes an answer. One that comes later than usual ends a silence.
func (c *contact) heard(now time.Time, usual time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && now.Sub(c.last) > usual {
		c.back = now
	}
	c.last = now
}

// within reports whether NATS has answered in the time d before now.
func (c *contact) within(now time.Time, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.last) < d
}

// doubtful reports whether NATS is silent, or was less than d ago. A process
// without a lease knows of no silence.
func (c *contact) doubtful(now time.Time, usual, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.last.IsZero() && now.Sub(c.last) > usual || now.Sub(c.back) < d
}
