package quant

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// unpack reads a row's codes as compressed-tensors' unpack_from_int32 does:
// code i begins at bit i × bits of the words, and is 2^(bits-1) too large.
func unpack(words []byte, bits, cols int) []int {
	q := make([]int, cols)
	for i := range q {
		for b := range bits {
			at := i*bits + b
			word := binary.LittleEndian.Uint32(words[at/32*4:])
			q[i] |= int(word>>(at%32)&1) << b
		}
		q[i] -= 1 << (bits - 1)
	}
	return q
}

func packedOf(s Scheme) packed {
	if c, ok := s.(custom); ok {
		return c.packed
	}
	return s.(packed)
}

// TestPacked holds the codes, scales and zero points against the formulas of
// the definition, worked out value by value, and Decode against them.
func TestPacked(t *testing.T) {
	for _, name := range append([]string{"int4", "int2", "custom"}, tunings...) {
		if !strings.HasPrefix(name, "custom") && !strings.HasPrefix(name, "int") {
			continue
		}
		p, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		s := packedOf(p)
		const rows = 3
		for _, cols := range []int{width(t, s), 64, 32} {
			if _, err := s.Layout(dtype.BF16, int64(cols)); err != nil {
				continue
			}
			src := randomFloats(8, dtype.BF16, rows*cols)
			got := encode(t, s, src, dtype.BF16, rows, cols)
			dec := make([]float32, rows*cols)
			s.Decode(dec, got, dtype.BF16, rows, cols)
			group := s.group
			if group == 0 || group > cols {
				group = cols
			}
			low, high := -float64(int(1)<<(s.bits-1)), float64(int(1)<<(s.bits-1)-1)
			for r := range rows {
				q := unpack(got[0][r*len(got[0])/rows:], s.bits, cols)
				for i := range cols {
					at := r*cols/group + i/group
					scale := math.Float32frombits(binary.LittleEndian.Uint32(got[1][4*at:]))
					var least, most float32
					for j := i / group * group; j < i/group*group+group; j++ {
						x := elementF32(src, dtype.BF16, r*cols+j)
						least, most = min(least, x), max(most, x)
					}
					want, zero := float32(most-least)/float32(high-low), 0.
					if s.symmetric {
						want = max(most, -least) / (float32(high-low) / 2)
					} else {
						zero = math.RoundToEven(low - float64(least/want))
						if z := float64(int8(got[2][at])); z != zero {
							t.Fatalf("%s, %d columns: zero point %d is %g, want %g", name, cols, at, z, zero)
						}
					}
					if scale != want {
						t.Fatalf("%s, %d columns: scale %d is %g, want %g", name, cols, at, scale, want)
					}
					x := elementF32(src, dtype.BF16, r*cols+i)
					if code := math.RoundToEven(min(max(float64(x/scale)+zero, low), high)); float64(q[i]) != code {
						t.Fatalf("%s, %d columns: code %d of row %d is %d, want %g", name, cols, i, r, q[i], code)
					}
					if y := (float32(q[i]) - float32(zero)) * scale; dec[r*cols+i] != y {
						t.Fatalf("%s, %d columns: value %d of row %d decodes to %g, want %g", name, cols, i, r, dec[r*cols+i], y)
					}
				}
			}
		}
	}
}

// TestPackedExtremes pins groups at the ends of F32's range.
func TestPackedExtremes(t *testing.T) {
	const big = math.MaxFloat32
	for _, c := range []struct {
		scheme string
		x      []float32 // the first values of a row of zeros
		scale  float32
		zero   int8
		q      []int
	}{
		{"int4", nil, 0x1p-23, 0, []int{0}},
		{"int4", []float32{7.5, -7.5, 0.5, 1.5}, 1, 0, []int{7, -8, 0, 2}},
		{"int4", []float32{big, -big}, big / 7.5, 0, []int{7, -8}},
		{"int4", []float32{math.Float32frombits(1)}, 0x1p-23, 0, []int{0}},
		{"int2", []float32{1.5, -1.5, 0.5}, 1, 0, []int{1, -2, 0}},
		{"custom:bits=4,symmetric=false", nil, 0x1p-23, -8, []int{-8}},
		{"custom:bits=4,symmetric=false", []float32{15, 1, 2}, 1, -8, []int{7, -7, -6, -8}},
		{"custom:bits=4,symmetric=false", []float32{-15, -1}, 1, 7, []int{-8, 6, 7}},
		{"custom:bits=4,symmetric=false", []float32{big, -big}, big/15 + big/15, 0, []int{7, -8, 0}},
	} {
		s, err := Parse(c.scheme)
		if err != nil {
			t.Fatal(err)
		}
		row := make([]float32, 32)
		copy(row, c.x)
		got := encode(t, s, f32Bytes(row...), dtype.F32, 1, len(row))
		scale := math.Float32frombits(binary.LittleEndian.Uint32(got[1]))
		if scale != c.scale || len(got) > 2 && int8(got[2][0]) != c.zero {
			t.Errorf("%s of %g: scale %g, zero % x, want %g and %d", c.scheme, c.x, scale, got[2:], c.scale, c.zero)
		}
		q := unpack(got[0], packedOf(s).bits, len(row))
		for i, want := range c.q {
			if q[i] != want {
				t.Errorf("%s of %g: code %d is %d, want %d", c.scheme, c.x, i, q[i], want)
			}
		}
	}
}
