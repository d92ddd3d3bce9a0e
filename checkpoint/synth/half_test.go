package synth

import (
	"math"
	"testing"
)

// TestHalves holds the conversions to values from the formats' definitions.
func TestHalves(t *testing.T) {
	for _, c := range []struct {
		f         float64
		bf16, f16 uint16
	}{
		{0, 0, 0},
		{1, 0x3f80, 0x3c00},
		{-2, 0xc000, 0xc000},
		{1 + 0x1p-8, 0x3f80, 0x3c04},                               // bf16: tie, down to even
		{1 + 0x3p-8, 0x3f82, 0x3c0c},                               // bf16: tie, up to even
		{1 + 0x1p-11, 0x3f80, 0x3c00},                              // f16: tie, down to even
		{1 + 0x3p-11, 0x3f80, 0x3c02},                              // f16: tie, up to even
		{0x1p-14, 0x3880, 0x0400},                                  // smallest normal half
		{0x1p-24, 0x3380, 0x0001},                                  // smallest half
		{-0x1.8p-24, 0xb3c0, 0x8002},                               // tie, to even
		{math.Nextafter(0x1p-14, 0), 0x3880, 0x0400},               // rounds up to a normal
		{0x1p-40, 0x2b80, 0},                                       // below all halves
		{math.Float64frombits(0x3fefffffe0000000), 0x3f80, 0x3c00}, // just under 1
	} {
		if got := toBF16(float32(c.f)); got != c.bf16 {
			t.Errorf("bf16(%g) = %#04x, want %#04x", c.f, got, c.bf16)
		}
		if got := toF16(float32(c.f)); got != c.f16 {
			t.Errorf("f16(%g) = %#04x, want %#04x", c.f, got, c.f16)
		}
	}
}
