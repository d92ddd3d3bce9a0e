//go:build gpu && !fakecuda

package gpu

import (
	"encoding/binary"
	"math"
	"testing"
)

// tf32 bounds what products in TF32, which the provider may use, differ by from
// the CPU's, relative to the largest.
const tf32 = 5e-3

// TestSessionEqualsCPU: a graph over weights on the device gives what it gives
// on the CPU.
func TestSessionEqualsCPU(t *testing.T) {
	var outputs [2][]byte
	for i, id := range []string{gpu, "cpu"} {
		out, err := sessionOn(t, graphOn(t, id)).Run(t.Context(), row())
		if err != nil {
			t.Fatal(err)
		}
		outputs[i] = out[0].Data
	}
	var off, most float64
	for i := 0; i < len(outputs[1]); i += 4 {
		at := func(b []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[i:]))) }
		off, most = max(off, math.Abs(at(outputs[0])-at(outputs[1]))), max(most, math.Abs(at(outputs[1])))
	}
	if !(off <= tf32*most) {
		t.Errorf("differs by %g of %g", off, most)
	}
}
