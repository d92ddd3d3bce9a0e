package quant

import "github.com/gantry-ml/gantry/dtype"

// iq4_nl is ggml's block_iq4_nl: 32 values in 18 bytes, an F16 scale d and 16
// bytes, each with the level of value j in its low and of value j+16 in its
// high four bits. The 16 levels v are not evenly spaced.
//
//	m = the value of the largest magnitude
//	q = the level nearest to x / (m / -127), the higher one of two as near
//	d = Σ x²·v(q)·x / Σ x²·v(q)², the least squares fit, stored as F16
//	x ≈ d × v(q)
//
// No value is off by more than a quarter of absmax: half of the widest gap
// between levels is 12 of 127, the highest level ends 14 short of 127, and the
// fit may stretch d by as much. Where absmax is under 1e-15 all bytes of the
// block are 0, which decodes to -0: so today's reference has it, where older
// ones kept what lay in memory as the levels. A d that is NaN, since both
// sums overflow (from about 1e17 on), is stored as 0xfe00, as x86 does. See
// blocks.go for input that is not finite.
// Reference: quantize_row_iq4_nl_ref (not ggml_quantize_chunk, which searches
// further), dequantize_row_iq4_nl, kvalues_iq4nl.
type iq4_nl struct{}

const (
	iq4Bytes = 2 + blockLen/2
	// groupEpsilon is the largest magnitude below which the reference takes a
	// group of values for zeros (GROUP_MAX_EPS).
	groupEpsilon = 1e-15
)

var iq4Levels = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func (iq4_nl) Name() string { return "iq4_nl" }

func (iq4_nl) Target() Target { return Matrices }

func (s iq4_nl) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, iq4Bytes)
}

func (iq4_nl) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [blockLen]float32
	for i := range rows * cols / blockLen {
		out := (*[iq4Bytes]byte)(dst[0][i*iq4Bytes:])
		if !loadBlock(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		m, absmax := signedMax(x[:])
		clear(out[:])
		if absmax < groupEpsilon {
			continue
		}
		id := 1 / float32(m/iq4Levels[0])
		var sumQX, sumQ2 float32
		for j, v := range x {
			l := iq4Level(float32(id * v))
			out[2+j%16] |= l << (j / 16 * 4)
			q, w := iq4Levels[l], float32(v*v)
			sumQX += float32(float32(w*q) * v)
			sumQ2 += float32(float32(w*q) * q)
		}
		var d float32
		if sumQ2 > 0 {
			d = sumQX / sumQ2
		}
		putHalf(out[:], d)
		if d != d {
			out[0], out[1] = 0x00, 0xfe
		}
	}
}

// iq4Nearest holds the level of every floor(2y) + 256. Twice the midpoint of
// two levels is an integer, so that decides.
var iq4Nearest = func() (levels [512]uint8) {
	for i := range levels {
		for l := range len(iq4Levels) - 1 {
			if float32(i-256) >= iq4Levels[l]+iq4Levels[l+1] {
				levels[i] = uint8(l + 1)
			}
		}
	}
	return levels
}()

// iq4Level returns the level nearest to y, which is within ±127 and a
// rounding. The sum is exact beside every midpoint.
func iq4Level(y float32) uint8 { return iq4Nearest[int(float64(y+y)+256)&511] }

func (iq4_nl) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[iq4Bytes]byte)(src[0][i*iq4Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d := half(b[:])
		for j, q := range b[2:] {
			out[j] = float32(d * iq4Levels[q&15])
			out[j+blockLen/2] = float32(d * iq4Levels[q>>4])
		}
	}
}

func (iq4_nl) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, searchBound(0, 1./4, 127*0x1p-25))
}
