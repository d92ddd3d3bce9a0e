package actors

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// TestSealFails: a check that fails ends the load and is in its report. One that
// found no memory is made again.
func TestSealFails(t *testing.T) {
	wrong := recovery.Errorf(recovery.Internal, "x·Wᵀ is off by 0.5")
	full := recovery.Errorf(recovery.OutOfCapacity, "std::bad_alloc")
	for name, c := range map[string]struct {
		first, then error
		state       messages.State
		validation  string
	}{
		"wrong":           {wrong, wrong, messages.StateFailed, "failed"},
		"full for once":   {full, nil, messages.StateReady, "skipped"},
		"full, and wrong": {full, wrong, messages.StateFailed, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			var seals atomic.Int64
			w.nodes[0].seal = func() error {
				if seals.Add(1) == 1 {
					return c.first
				}
				return c.then
			}
			j := w.load(request("a"))
			if j.State != c.state || j.Validation.State != c.validation {
				t.Errorf("%s: %s, validation %+v", j.State, j.Why, j.Validation)
			}
			if c.state == messages.StateFailed && !strings.Contains(j.Validation.Reason, "off by") {
				t.Errorf("validation failed: %q", j.Validation.Reason)
			}
		})
	}
}
