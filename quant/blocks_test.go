package quant

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// ggmlTypes are the schemes of blocks.go.
func ggmlTypes(t *testing.T) (all []Scheme) {
	t.Helper()
	for _, name := range Names() {
		if name[0] != 'q' && !slices.Contains([]string{"iq4_nl", "mxfp4"}, name) {
			continue
		}
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestSpoiltBlock holds that a value that is not finite takes its block with
// it, and no other, wherever it is.
func TestSpoiltBlock(t *testing.T) {
	for _, s := range ggmlTypes(t) {
		l, err := s.Layout(dtype.F32, superLen)
		if err != nil {
			t.Fatal(err)
		}
		n, size := int(l.Align), int(l.Planes[0].Unit)
		row := make([]float32, 2*n)
		for i := range row {
			row[i] = float32(i%n) - 15.5
		}
		sound := encode(t, s, f32Bytes(row...), dtype.F32, 1, len(row))[0]
		for _, bad := range []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())} {
			for at := range row {
				broken := slices.Clone(row)
				broken[at] = bad
				got := encode(t, s, f32Bytes(broken...), dtype.F32, 1, len(row))
				hit, other := at/n, 1-at/n
				if !bytes.Equal(got[0][other*size:][:size], sound[other*size:][:size]) {
					t.Fatalf("%s: %g at %d reaches the other block", s.Name(), bad, at)
				}
				dec := make([]float32, len(row))
				s.Decode(dec, got, dtype.F32, 1, len(row))
				for i, x := range dec[hit*n:][:n] {
					if x-x == 0 {
						t.Fatalf("%s: %g at %d, value %d of its block decodes to %g", s.Name(), bad, at, i, x)
					}
				}
			}
		}
	}
}

// TestTinyAndHuge holds that blocks of values under F32's normal range decode
// to zeros, and that the largest ones give the same bytes in any company.
func TestTinyAndHuge(t *testing.T) {
	for _, s := range ggmlTypes(t) {
		for _, x := range []float32{math.Float32frombits(1), 0x1p-140, 0x1p-127, 0x1.fffffcp-127} {
			row := make([]float32, superLen)
			for i := range row {
				row[i] = x * float32(1-2*(i&1))
			}
			got := encode(t, s, f32Bytes(row...), dtype.F32, 1, superLen)
			dec := make([]float32, superLen)
			s.Decode(dec, got, dtype.F32, 1, superLen)
			for i, y := range dec {
				if y != 0 {
					t.Fatalf("%s: %g at %d decodes to %g", s.Name(), x, i, y)
				}
			}
		}
		for _, x := range []float32{1e9, 1e15, 0x1p127, math.MaxFloat32} {
			row := make([]float32, 2*superLen)
			for i := range row {
				row[i] = x * float32(1-2*(i&1))
			}
			got := encode(t, s, f32Bytes(row...), dtype.F32, 1, len(row))[0]
			if n := len(got) / 2; !bytes.Equal(got[:n], got[n:]) {
				t.Errorf("%s: two blocks of %g differ", s.Name(), x)
			}
		}
	}
}

// TestExponentOfMXFP4 pins the rounding of log2 that decides beside powers of
// two, where absmax counts as the power already.
func TestExponentOfMXFP4(t *testing.T) {
	for _, c := range []struct {
		absmax float32
		want   uint8
	}{
		{0, 0}, {1, 125}, {1.999999, 125}, {2, 126}, {math.Nextafter32(1, 0), 124},
		{math.Nextafter32(0x1p100, 0), 225}, {math.MaxFloat32, 253}, {0x1p-125, 0},
		{0x1p-126, 255}, {math.Float32frombits(1), 232},
	} {
		if got := mxfp4Exponent(math.Float32bits(c.absmax)); got != c.want {
			t.Errorf("absmax %g: e %d, want %d", c.absmax, got, c.want)
		}
	}
}
