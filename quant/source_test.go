package quant

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// elementF32 reads element i of b as F32, rounding F64.
func elementF32(b []byte, d dtype.Type, i int) float32 {
	switch d {
	case dtype.F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	case dtype.F16:
		return dtype.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
	case dtype.BF16:
		return dtype.BF16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
	default:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
	}
}

// TestCastIsElementwise holds that a cast is the scalar conversion of each
// element, in its place.
func TestCastIsElementwise(t *testing.T) {
	const n = 77
	for _, from := range floats {
		for _, to := range floats[:3] {
			if to == from {
				continue
			}
			for name, src := range adversaries(5, from, n) {
				eachTwin(t, from.String()+" to "+to.String()+"/"+name, func(t *testing.T) {
					got := encode(t, cast{to}, src, from, 1, n)[0]
					for i := range n {
						x := elementF32(src, from, i)
						if from == dtype.F64 && to != dtype.F32 {
							x = dtype.F64ToF32Odd(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
						}
						var want uint32
						switch to {
						case dtype.F32:
							want = math.Float32bits(x)
						case dtype.F16:
							want = uint32(dtype.F32ToF16(x))
						case dtype.BF16:
							want = uint32(dtype.F32ToBF16(x))
						}
						have := uint32(binary.LittleEndian.Uint16(got[to.Size()*i:]))
						if to == dtype.F32 {
							have = binary.LittleEndian.Uint32(got[4*i:])
						}
						if have != want {
							t.Fatalf("element %d, %g: %#x, want %#x", i, x, have, want)
						}
					}
				})
			}
		}
	}
}

// TestSourceTypes holds that what a tensor becomes depends on its values, not
// on the type that held them.
func TestSourceTypes(t *testing.T) {
	for _, s := range variants(t) {
		switch s.(type) {
		case none, cast:
			continue
		}
		rows, cols := 2, width(t, s)
		for _, from := range floats {
			for name, src := range adversaries(6, from, rows*cols) {
				eachTwin(t, s.Name()+"/"+from.String()+"/"+name, func(t *testing.T) {
					var wide []float32
					for i := range rows * cols {
						wide = append(wide, elementF32(src, from, i))
					}
					got := encode(t, s, src, from, rows, cols)
					want := encode(t, s, f32Bytes(wide...), dtype.F32, rows, cols)
					for p := range want {
						if i := firstDiff(got[p], want[p]); i >= 0 {
							t.Fatalf("plane %d differs at byte %d", p, i)
						}
					}
				})
			}
		}
	}
}
