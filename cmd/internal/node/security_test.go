package node

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// TestCheckListen: an address beyond loopback needs TLS, or --insecure, which
// is never silent.
func TestCheckListen(t *testing.T) {
	for _, c := range []struct {
		addr     string
		tls      *tls.Config
		insecure bool
		class    recovery.Class
		warned   bool
	}{
		{addr: "127.0.0.1:0"},
		{addr: "127.0.0.1:0", insecure: true},
		{addr: "192.0.2.2:0", class: recovery.Usage},
		{addr: "192.0.2.2:0", tls: &tls.Config{}},
		{addr: "192.0.2.2:0", tls: &tls.Config{}, insecure: true},
		{addr: "192.0.2.2:0", insecure: true, warned: true},
		{addr: "gpu1.example:0", insecure: true, warned: true},
		{addr: "0.0.0.0:0", insecure: true, class: recovery.Usage},
		{addr: "nonsense", class: recovery.Usage},
	} {
		var log bytes.Buffer
		err := Security{Insecure: c.insecure}.checkListen(c.addr, c.tls, slog.New(slog.NewTextHandler(&log, nil)))
		if got := recovery.ClassOf(err); got != c.class {
			t.Errorf("%+v: class %q: %v", c, got, err)
		}
		if warned := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "INSECURE: actors"); warned != c.warned {
			t.Errorf("%+v: logged %q", c, log.String())
		}
	}
}
