package dtype

import (
	"math"
	"testing"
)

// float8 is one of the 8-bit types, described by its fields.
type float8 struct {
	name       string
	bias, frac int
	encode     func(float32) uint8
	decode     func(uint8) float32
	nan, inf   func(uint8) bool
}

var float8s = []float8{
	{"E4M3", 7, 3, F32ToF8E4M3, F8E4M3ToF32,
		func(h uint8) bool { return h&0x7f == 0x7f }, func(uint8) bool { return false }},
	{"E5M2", 15, 2, F32ToF8E5M2, F8E5M2ToF32,
		func(h uint8) bool { return h&0x7f > 0x7c }, func(h uint8) bool { return h&0x7f == 0x7c }},
}

// value reads the fields as the specification does.
func (f float8) value(h uint8) float64 {
	e, m := int(h&0x7f)>>f.frac, float64(int(h)&(1<<f.frac-1))/float64(int(1)<<f.frac)
	v := math.Ldexp(1+m, e-f.bias)
	if e == 0 {
		v = math.Ldexp(m, 1-f.bias)
	}
	switch {
	case f.nan(h):
		v = math.NaN()
	case f.inf(h):
		v = math.Inf(1)
	}
	if h >= 0x80 {
		v = -v
	}
	return v
}

// TestFloat8Decode reads every value, and writes it back.
func TestFloat8Decode(t *testing.T) {
	for _, f := range float8s {
		for i := range 256 {
			h := uint8(i)
			want, got := f.value(h), float64(f.decode(h))
			if got != want && !(got != got && want != want) || math.Signbit(got) != (h >= 0x80) {
				t.Errorf("%s %#02x is %g, want %g", f.name, h, got, want)
			}
			back := f.encode(float32(got))
			if f.nan(h) {
				h |= 0x7f
			}
			if back != h {
				t.Errorf("%s %#02x comes back as %#02x", f.name, h, back)
			}
		}
	}
}

// TestFloat8Rounds tries what lies between each value and the next, on and
// beside the middle.
func TestFloat8Rounds(t *testing.T) {
	for _, f := range float8s {
		for h := uint8(0); !f.nan(h+1) && !f.inf(h+1); h++ {
			middle := float32((f.value(h) + f.value(h+1)) / 2)
			even := h + h&1
			for _, c := range []struct {
				x    float32
				want uint8
			}{{middle, even}, {math.Nextafter32(middle, 0), h}, {math.Nextafter32(middle, math.MaxFloat32), h + 1}} {
				if got := f.encode(c.x); got != c.want {
					t.Errorf("%s of %g is %#02x, want %#02x", f.name, c.x, got, c.want)
				}
				if got := f.encode(-c.x); got != c.want|0x80 {
					t.Errorf("%s of %g is %#02x, want %#02x", f.name, -c.x, got, c.want|0x80)
				}
			}
		}
	}
}

func TestFloat8TooLarge(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		x          float32
		e4m3, e5m2 uint8
	}{
		{448, 0x7e, 0x5f}, {464, 0x7e, 0x5f}, {464.00003, 0x7f, 0x5f}, {57344, 0x7f, 0x7b},
		{61439, 0x7f, 0x7b}, {61440, 0x7f, 0x7c}, {math.MaxFloat32, 0x7f, 0x7c}, {inf, 0x7f, 0x7c},
		{-inf, 0xff, 0xfc}, {nan, 0x7f, 0x7f}, {math.Float32frombits(1), 0, 0},
	} {
		if a, b := F32ToF8E4M3(c.x), F32ToF8E5M2(c.x); a != c.e4m3 || b != c.e5m2 {
			t.Errorf("%g: E4M3 %#02x, E5M2 %#02x, want %#02x and %#02x", c.x, a, b, c.e4m3, c.e5m2)
		}
	}
}
