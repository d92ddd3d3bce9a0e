package dtype

import (
	"math"
	"testing"
)

// TestNames: each type's name is read back as the type.
func TestNames(t *testing.T) {
	for typ := Bool; int(typ) < len(table); typ++ {
		var back Type
		if text, err := typ.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != typ {
			t.Errorf("%s is read back as %s (%v)", typ, back, err)
		}
	}
	for _, name := range []string{"", "INVALID", "f32", "Q4_k"} {
		if typ, err := Parse(name); err == nil {
			t.Errorf("Parse(%q) = %s", name, typ)
		}
	}
}

// TestSizes: bits and sizes are those of one element, and of block types
// there are none.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		typ             Type
		bits, size      int
		elements, bytes int64
		quantized       bool
	}{
		{Invalid, 0, 0, 0, 0, false},
		{F4, 4, 0, 2, 1, false},
		{F6E2M3, 6, 0, 4, 3, false},
		{I8, 8, 1, 1, 1, false},
		{BF16, 16, 2, 1, 2, false},
		{C64, 64, 8, 1, 8, false},
		{Q8_0, 0, 0, 32, 34, true},
		{Q4_K, 0, 0, 256, 144, true},
		{NVFP4, 0, 0, 64, 36, true},
		{NVFP4 + 1, 0, 0, 0, 0, false},
	} {
		elements, bytes := c.typ.Block()
		if c.typ.Bits() != c.bits || c.typ.Size() != c.size || elements != c.elements || bytes != c.bytes || c.typ.Quantized() != c.quantized {
			t.Errorf("%s: %d bits, size %d, %d elements in %d bytes, quantized %v", c.typ, c.typ.Bits(), c.typ.Size(), elements, bytes, c.typ.Quantized())
		}
	}
}

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		n    int64
		want int64 // -1: refused
	}{
		{F32, 3, 12}, {F32, 0, 0}, {F32, -1, -1}, {F32, 1 << 60, 1 << 62}, {F32, 1<<60 + 1, -1},
		{F4, 2, 1}, {F4, 3, -1}, {F6E3M2, 4, 3}, {F6E3M2, 2, -1},
		{Q4_0, 64, 36}, {Q4_0, 33, -1}, {Q4_K, 32, -1}, {Q8_0, 1<<63 - 32, -1},
	} {
		if got, err := c.typ.Bytes(c.n); err == nil && got != c.want || (err != nil) != (c.want < 0) {
			t.Errorf("%d of %s: %d bytes (%v), want %d", c.n, c.typ, got, err, c.want)
		}
	}
}

// TestElements: products go from the first dimension to the last, in 64 bits.
func TestElements(t *testing.T) {
	for _, c := range []struct {
		shape []int64
		want  int64 // -1 for none
	}{
		{nil, 1}, {[]int64{3, 5}, 15}, {[]int64{0}, 0}, {[]int64{1 << 31, 1 << 31}, 1 << 62},
		{[]int64{math.MaxInt64, 0}, 0}, {[]int64{0, math.MaxInt64, math.MaxInt64}, 0}, {[]int64{2, math.MaxInt64, 0}, 0},
		{[]int64{1 << 32, 1 << 32, 0}, -1}, {[]int64{3, math.MaxInt64, 0}, -1},
		{[]int64{math.MaxInt64}, -1}, {[]int64{1 << 62, 2}, -1}, {[]int64{0, -1}, -1}, {[]int64{-1, 0}, -1},
	} {
		n, err := Elements(c.shape)
		if (err != nil) != (c.want < 0) || err == nil && n != c.want {
			t.Errorf("%v: %d, %v; want %d", c.shape, n, err, c.want)
		}
	}
}
