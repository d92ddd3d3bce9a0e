package dtype

import (
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestNonFinite(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		t    Type
		b    []byte
		want NonFinite
	}{
		{F16, []byte{0, 0x7c, 0, 0xfc, 1, 0x7c, 0xff, 0xff, 0xff, 0x7b, 0, 0x80}, NonFinite{2, 2}},
		{BF16, []byte{0x80, 0x7f, 0x80, 0xff, 0xc0, 0x7f, 0x7f, 0x7f, 0, 0}, NonFinite{1, 2}},
		{F64, le.AppendUint64(le.AppendUint64(nil, math.Float64bits(math.Inf(-1))), math.Float64bits(1e300)), NonFinite{0, 1}},
		{F64, le.AppendUint64(nil, math.Float64bits(math.NaN())), NonFinite{1, 0}},
		{F8E5M2, []byte{0x7c, 0xfc, 0x7d, 0xff, 0x7b, 0x80, 0}, NonFinite{2, 2}},
		{F8E4M3, []byte{0x7f, 0xff, 0x7e, 0x78, 0x80, 0}, NonFinite{2, 0}},
		{F8E4M3FNUZ, []byte{0x80, 0x7f, 0xff, 0}, NonFinite{1, 0}},
		{F8E5M2FNUZ, []byte{0x80, 0x7f, 0xff, 0x7c}, NonFinite{1, 0}},
		{F8E8M0, []byte{0xff, 0x80, 0xfe, 0}, NonFinite{1, 0}},
		{I32, []byte{0, 0, 0xc0, 0x7f}, NonFinite{}},
		{F32, nil, NonFinite{}},
	} {
		if got := c.t.NonFinite(c.b); got != c.want {
			t.Errorf("%s %x: %+v, want %+v", c.t, c.b, got, c.want)
		}
	}
}

// TestNonFiniteF32: whatever the bits, the count is what math says of them.
func TestNonFiniteF32(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		bits := rapid.SliceOf(rapid.OneOf(rapid.Uint32(), rapid.SampledFrom([]uint32{0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0x7f7fffff}))).Draw(r, "bits")
		var b []byte
		var values []float32
		var want NonFinite
		for _, x := range bits {
			v := math.Float32frombits(x)
			b, values = binary.LittleEndian.AppendUint32(b, x), append(values, v)
			switch {
			case math.IsNaN(float64(v)):
				want.NaN++
			case math.IsInf(float64(v), 0):
				want.Inf++
			}
		}
		if got := F32.NonFinite(b); got != want {
			r.Fatalf("%x: %+v, want %+v", b, got, want)
		}
		if got := NonFiniteOf(values); got != want {
			r.Fatalf("%v: %+v, want %+v", values, got, want)
		}
	})
}
