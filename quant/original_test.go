package quant

import (
	"bytes"
	"math"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// TestOriginalIsKept: the last plane is what was stored, the others are what
// the scheme alone makes, and the name reads back.
func TestOriginalIsKept(t *testing.T) {
	const rows, cols = 3, 64
	src := make([]byte, rows*cols*2)
	for i := range src {
		src[i] = byte(i * 7)
	}
	for _, name := range []string{"int8", "q8_0", "f32"} {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := Parse(name + "+original")
		if err != nil || kept != WithOriginal(s) || !HasOriginal(kept) || HasOriginal(s) {
			t.Fatalf("Parse of %s+original is %v, %v", name, kept, err)
		}
		alone, both := encodeAll(t, s, src, rows, cols), encodeAll(t, kept, src, rows, cols)
		if len(both) != len(alone)+1 || !bytes.Equal(both[len(alone)], src) {
			t.Errorf("%s: the original is not kept as it was", name)
		}
		for i := range alone {
			if !bytes.Equal(alone[i], both[i]) {
				t.Errorf("%s: plane %d is not what the scheme makes alone", name, i)
			}
		}
		want, got := make([]float32, rows*cols), make([]float32, rows*cols)
		s.Decode(want, alone, dtype.BF16, rows, cols)
		kept.Decode(got, both, dtype.BF16, rows, cols)
		for i := range want {
			if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
				t.Fatalf("%s: value %d decodes to %v, want %v", name, i, got[i], want[i])
			}
		}
	}
}

// encodeAll encodes BF16 rows into fresh planes.
func encodeAll(t *testing.T, s Scheme, src []byte, rows, cols int) [][]byte {
	t.Helper()
	l, err := s.Layout(dtype.BF16, int64(cols))
	if err != nil {
		t.Fatal(err)
	}
	planes := make([][]byte, len(l.Planes))
	for i, p := range l.Planes {
		planes[i] = make([]byte, int64(rows)*p.RowBytes(int64(cols)))
	}
	s.Encode(planes, src, dtype.BF16, rows, cols)
	return planes
}
