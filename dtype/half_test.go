package dtype

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestF16RoundTrip(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		want := h
		if h&0x7fff > 0x7c00 {
			want |= 0x200 // quiet
		}
		if got := F32ToF16(F16ToF32(h)); got != want {
			t.Fatalf("%#04x became %#04x", h, got)
		}
	}
}

func TestBF16RoundTrip(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		want := h
		if h&0x7fff > 0x7f80 {
			want |= 0x40 // quiet
		}
		if got := F32ToBF16(BF16ToF32(h)); got != want {
			t.Fatalf("%#04x became %#04x", h, got)
		}
	}
}

// TestHalfValues pins the values that the arithmetic of the round trip could
// get wrong both ways.
func TestHalfValues(t *testing.T) {
	for _, c := range []struct {
		f    float32
		f16  uint16
		bf16 uint16
	}{
		{0, 0, 0},
		{float32(math.Copysign(0, -1)), 0x8000, 0x8000},
		{1, 0x3c00, 0x3f80},
		{-2, 0xc000, 0xc000},
		{65504, 0x7bff, 0x4780},
		{65519.996, 0x7bff, 0x4780},
		{65520, 0x7c00, 0x4780},
		{0x1p-14, 0x0400, 0x3880},
		{0x1p-24, 0x0001, 0x3380},
		{0x1p-25, 0x0000, 0x3300}, // a tie, to even
		{0x1.000002p-25, 0x0001, 0x3300},
		{0x1.8p-24, 0x0002, 0x33c0},       // a tie, to even
		{1 + 0x1p-11, 0x3c00, 0x3f80},     // a tie, to even
		{1 + 0x3p-11, 0x3c02, 0x3f80},     // a tie, to even
		{1 + 0x1p-8, 0x3c04, 0x3f80},      // a tie for bf16
		{1 + 0x3p-8, 0x3c0c, 0x3f82},      // a tie for bf16
		{math.MaxFloat32, 0x7c00, 0x7f80}, // rounds up to an infinity
		{math.Float32frombits(0x7f800001), 0x7e00, 0x7fc0},
		{math.Float32frombits(0xffffffff), 0xffff, 0xffff},
		{math.Float32frombits(1), 0x0000, 0x0000},
	} {
		if got := F32ToF16(c.f); got != c.f16 {
			t.Errorf("F32ToF16(%g) = %#04x, want %#04x", c.f, got, c.f16)
		}
		if got := F32ToBF16(c.f); got != c.bf16 {
			t.Errorf("F32ToBF16(%g) = %#04x, want %#04x", c.f, got, c.bf16)
		}
	}
}

// TestHalfIsNearest holds that no other half lies nearer than the one chosen,
// and that a tie goes to the even one, from F32 and from F64.
func TestHalfIsNearest(t *testing.T) {
	formats := map[string]struct {
		to   func(float64) uint16
		from func(uint16) float32
		inf  uint16
	}{
		"f32 to f16":  {func(f float64) uint16 { return F32ToF16(float32(f)) }, F16ToF32, 0x7c00},
		"f32 to bf16": {func(f float64) uint16 { return F32ToBF16(float32(f)) }, BF16ToF32, 0x7f80},
		"f64 to f16":  {func(f float64) uint16 { return F32ToF16(F64ToF32Odd(f)) }, F16ToF32, 0x7c00},
		"f64 to bf16": {func(f float64) uint16 { return F32ToBF16(F64ToF32Odd(f)) }, BF16ToF32, 0x7f80},
	}
	for name, c := range formats {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				h := uint16(rapid.IntRange(0, int(c.inf)-2).Draw(t, "half"))
				lo, hi := float64(c.from(h)), float64(c.from(h+1))
				// Halfway, and one F64 or F32 step beside it.
				mid := lo + (hi-lo)/2
				even := h + h&1
				if got := c.to(mid); got != even {
					t.Fatalf("%g: %#04x, want the even %#04x", mid, got, even)
				}
				below, above := math.Nextafter(mid, 0), math.Nextafter(mid, hi)
				if name[:3] == "f32" {
					m := float32(mid)
					below, above = float64(math.Nextafter32(m, 0)), float64(math.Nextafter32(m, float32(hi)))
				}
				if got := c.to(below); got != h {
					t.Fatalf("just under %g: %#04x, want %#04x", mid, got, h)
				}
				if got := c.to(above); got != h+1 {
					t.Fatalf("just over %g: %#04x, want %#04x", mid, got, h+1)
				}
			})
		})
	}
}
