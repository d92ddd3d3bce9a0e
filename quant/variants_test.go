package quant

import (
	"math"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// tunings are schemes with parameters that are not their defaults.
var tunings = []string{
	"custom:bits=2,symmetric=false,group=32", "custom:bits=3,group=64", "custom:bits=5,symmetric=false",
	"custom:bits=6,group=0", "custom:bits=7,symmetric=false,group=96", "custom:bits=8,symmetric=false,group=0",
	"custom:bits=4,group=16", "custom:bits=8,group=48", "custom:bits=3,symmetric=false,group=20",
	"fp8_e4m3:scale=tensor", "fp8_e5m2:scale=tensor",
	"ort_nbits4:symmetric=false", "ort_nbits8:symmetric=false", "ort_nbits4:block=16", "ort_nbits4:block=128,symmetric=false", "ort_nbits8:block=64",
}

// variants returns every scheme, and those of tunings.
func variants(t testing.TB) []Scheme {
	t.Helper()
	all := slices.Clone(schemes)
	for _, name := range tunings {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// width returns a number of columns that s takes, of several blocks where it
// has such.
func width(t testing.TB, s Scheme) int {
	t.Helper()
	for _, cols := range []int64{1920, 2 * superLen} {
		l, err := s.Layout(dtype.F32, cols)
		if err == nil && (l.Scope != Block || cols > l.Align) {
			return int(max(2*l.Align, 2*blockLen))
		}
	}
	t.Fatalf("%s takes no row of this test", s.Name())
	return 0
}

// TestSpoils holds what a value that is not finite does: it decodes to no
// finite number, and nothing beyond its block or row changes.
func TestSpoils(t *testing.T) {
	for _, s := range variants(t) {
		cols := width(t, s)
		l, err := s.Layout(dtype.F32, int64(cols))
		if err != nil {
			t.Fatal(err)
		}
		const rows = 3
		x := make([]float32, rows*cols)
		for i := range x {
			x[i] = float32(i%cols)/16 - 1.5
		}
		decoded := func() []float32 {
			got := make([]float32, len(x))
			s.Decode(got, encode(t, s, f32Bytes(x...), dtype.F32, rows, cols), dtype.F32, rows, cols)
			return got
		}
		sound := decoded()
		for _, bad := range []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())} {
			for _, at := range []int{cols, cols + 5, 2*cols - 1} {
				kept := x[at]
				x[at] = bad
				got := decoded()
				x[at] = kept
				if y := got[at]; y-y == 0 {
					t.Fatalf("%s: %g at %d decodes to %g", s.Name(), bad, at, y)
				}
				run := at / int(l.Align)
				for i, y := range got {
					near := i/int(l.Align) == run || l.Scope == Row && i/cols == 1
					if !near && math.Float32bits(y) != math.Float32bits(sound[i]) {
						t.Fatalf("%s: %g at %d changes value %d from %g to %g", s.Name(), bad, at, i, sound[i], y)
					}
				}
			}
		}
	}
}
