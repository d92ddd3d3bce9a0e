package node

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// certificate is a node's own, kept as current as its files: who renews it
// need not restart the node.
type certificate struct {
	cert, key string // PEM files

	mu      sync.Mutex
	pair    *tls.Certificate
	changed [2]time.Time // of the files that pair was read from
}

// get returns the certificate. Where new files cannot be read, perhaps since
// only one of them has been written yet, the old certificate stays.
func (c *certificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := c.times()
	if err == nil && c.pair != nil && changed == c.changed {
		return c.pair, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.pair, c.changed = &pair, changed
			return c.pair, nil
		}
	}
	if c.pair != nil {
		return c.pair, nil
	}
	return nil, &recovery.Error{Class: recovery.Usage, Op: "read TLS certificate", File: c.cert, Err: err}
}

func (c *certificate) times() (at [2]time.Time, err error) {
	for i, name := range []string{c.cert, c.key} {
		info, err := os.Stat(name)
		if err != nil {
			return at, err
		}
		at[i] = info.ModTime()
	}
	return at, nil
}
