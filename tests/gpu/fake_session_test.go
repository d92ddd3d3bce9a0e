//go:build fakecuda

package gpu

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/device/fakecuda"
)

// TestSessionOverDeviceMemory: a session is made over the weights where they
// lie on the device: they are neither copied there again, nor back. It runs up
// to the first product, which the fake does not do.
func TestSessionOverDeviceMemory(t *testing.T) {
	clean(t)
	m := graphOn(t, gpu)
	before := *state
	s := sessionOn(t, m)
	var inGraph uint64
	for _, w := range s.Graph().Weights {
		if w.Embedded {
			inGraph += uint64(w.Bytes)
		}
	}
	if in := state.Copied[fakecuda.HostToDevice] - before.Copied[fakecuda.HostToDevice]; in > inGraph {
		t.Errorf("%d bytes are copied to the device, %d are in the graph", in, inGraph)
	}
	if out := state.Copied[fakecuda.DeviceToHost] - before.Copied[fakecuda.DeviceToHost]; out != inGraph {
		t.Errorf("%d bytes are copied from the device, %d are in the graph", out, inGraph)
	}
	if _, err := s.Run(t.Context(), row()); err == nil || !strings.Contains(err.Error(), "CUBLAS") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, want one line that names cuBLAS", err)
	}
}
