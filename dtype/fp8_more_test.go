package dtype

import (
	"math"
	"testing"
)

func TestF8More(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name string
		f    func(uint8) float32
		bits uint8
		want float32
	}{
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x7f, 240},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0xff, -240},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x7e, 224},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x40, 1},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x01, 0x1p-10},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x00, 0},
		{"e4m3fnuz", F8E4M3FNUZToF32, 0x80, nan},
		{"e5m2fnuz", F8E5M2FNUZToF32, 0x7f, 57344},
		{"e5m2fnuz", F8E5M2FNUZToF32, 0x40, 1},
		{"e5m2fnuz", F8E5M2FNUZToF32, 0xc1, -1.25},
		{"e5m2fnuz", F8E5M2FNUZToF32, 0x01, 0x1p-17},
		{"e5m2fnuz", F8E5M2FNUZToF32, 0x80, nan},
		{"e8m0", F8E8M0ToF32, 127, 1},
		{"e8m0", F8E8M0ToF32, 0, 0x1p-127},
		{"e8m0", F8E8M0ToF32, 254, 0x1p127},
		{"e8m0", F8E8M0ToF32, 255, nan},
	} {
		if got := c.f(c.bits); got != c.want && !(got != got && c.want != c.want) {
			t.Errorf("%s %#02x is %g, want %g", c.name, c.bits, got, c.want)
		}
	}
}
