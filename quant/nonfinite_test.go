package quant

import (
	"math"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// TestNonFinite holds what docs/reference.md says of values that are no finite
// numbers: which others of a row of 512 are spoiled by a NaN at 5 and an
// infinity at 300.
func TestNonFinite(t *testing.T) {
	alone, row := dtype.NonFinite{NaN: 1, Inf: 1}, dtype.NonFinite{NaN: 512}
	runs := func(n int64) dtype.NonFinite { return dtype.NonFinite{NaN: 2 * n} }
	want := map[string]dtype.NonFinite{
		"none": alone, "f32": alone, "f16": alone, "bf16": alone,
		"fp8_e4m3": runs(1), "fp8_e5m2": alone,
		"int8": row, "int4": runs(128), "int2": runs(128), "custom": runs(128), "binary": runs(128),
		"nf4": runs(64), "ort_nbits4": runs(32), "ort_nbits8": runs(32),
		"q8_0": runs(32), "q4_0": runs(32), "q4_1": runs(32), "q5_0": runs(32), "q5_1": runs(32), "iq4_nl": runs(32), "mxfp4": {Inf: 64},
		"q2_K": row, "q3_K": row, "q4_K": row, "q5_K": row, "q6_K": row,
		"nvfp4": runs(16),
	}
	for _, s := range schemes {
		x := make([]float32, 512)
		for i := range x {
			x[i] = float32(math.Sin(float64(i)))
		}
		x[5], x[300] = float32(math.NaN()), float32(math.Inf(-1))
		got := make([]float32, len(x))
		s.Decode(got, encode(t, s, f32Bytes(x...), dtype.F32, 1, len(x)), dtype.F32, 1, len(x))
		w, ok := want[baseName(s)]
		if !ok {
			t.Errorf("%s: write down here, and in the reference, what becomes of NaN and Inf", s.Name())
		} else if n := dtype.NonFiniteOf(got); n != w {
			t.Errorf("%s: %+v, want %+v", s.Name(), n, w)
		}
	}
}
