package quant

import (
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// mxfp4 is ggml's block_mxfp4, the OCP Microscaling format MXFP4: 32 values in
// 17 bytes, an exponent e and 16 bytes, each with the FP4 (E2M1) of value j in
// its low and of value j+16 in its high four bits.
//
//	e = floor(log2(absmax)) - 2 + 127, with log2 rounded to F32; 0 for zeros
//	q = the FP4 nearest to x / 2^(e-127), the first in the table of two as near
//	x ≈ 2^(e-127) × FP4(q), off by at most absmax / 4
//
// The largest FP4 is 6, and absmax is under 8 × 2^(e-127): the bound is what
// is cut off there. The table holds twice the FP4 values, so that they are
// whole numbers, and the scale is half of 2^(e-127).
//
// What the reference leaves open: below 2⁻¹²⁵ e wraps around to 232 and above,
// as x86's conversion does, with zeros, which decode to zeros. A block that
// holds a NaN or an infinity gets e = 255 and sixes: OCP's readers take that
// for NaN, and ggml's, which knows no NaN here, for infinities, as Decode does.
// Reference: quantize_row_mxfp4_ref, dequantize_row_mxfp4, kvalues_mxfp4;
// OCP Microscaling Formats (MX) Specification 1.0, 5.2 and 5.4.
type mxfp4 struct{}

const (
	mxfp4Bytes = 1 + blockLen/2
	// mxfp4Top is the e, of the last few numbers below 2^128 only, with which
	// the two largest FP4 overflow, so that none is nearest to them.
	mxfp4Top = 253
)

var mxfp4Values = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

func (mxfp4) Name() string { return "mxfp4" }

func (mxfp4) Target() Target { return Matrices }

func (s mxfp4) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, mxfp4Bytes)
}

func (mxfp4) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	in := blockLen * from.Size()
	for i := range rows * cols / blockLen {
		block, out := src[i*in:][:in], (*[mxfp4Bytes]byte)(dst[0][i*mxfp4Bytes:])
		absmax := kernel.absmax(block, from)
		if absmax >= infBits {
			out[0] = 0xff
			for j := range out[1:] {
				out[1+j] = 0x77
			}
			continue
		}
		out[0] = mxfp4Exponent(absmax)
		perHalf := 2 / float64(mxfp4Scale(out[0]))
		switch {
		case out[0] == mxfp4Top:
			encodeFP4(out[1:], block, from, perHalf, 5)
		case perHalf > math.MaxFloat32:
			encodeFP4(out[1:], block, from, perHalf, 7)
		default:
			kernel.fp4(out[1:], block, from, float32(perHalf))
		}
	}
}

func fp4Portable(dst, src []byte, from dtype.Type, factor float32) {
	encodeFP4(dst, src, from, float64(factor), 7)
}

// encodeFP4 writes the codes of whole tiles, with perHalf half steps in 1, but
// for their signs at most most.
func encodeFP4(dst, src []byte, from dtype.Type, perHalf float64, most uint8) {
	var x [tile]float32
	for len(src) > 0 {
		nextTile(&x, &src, from)
		for j := range tile / 2 {
			dst[j] = mxfp4Code(x[j], perHalf, most) | mxfp4Code(x[j+tile/2], perHalf, most)<<4
		}
		dst = dst[tile/2:]
	}
}

// mxfp4Exponent takes the bits of a block's largest magnitude.
func mxfp4Exponent(absmax uint32) uint8 {
	if absmax == 0 {
		return 0
	}
	const near = 0x7fff00 // from here on F32 may round the logarithm up to a whole number
	if exponent := absmax >> 23; exponent > 0 && absmax&0x7fffff < near {
		return uint8(exponent - 2)
	}
	log := float32(math.Log2(float64(math.Float32frombits(absmax))))
	return uint8(int32(math.Floor(float64(log))) - 2 + 127)
}

// mxfp4Scale returns half of 2^(e-127).
func mxfp4Scale(e uint8) float32 {
	if e < 2 {
		return math.Float32frombits(0x00200000 << e) // denormal
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// mxfp4Most is more half steps than a value has: absmax is under 16 steps.
const mxfp4Most = 32

// mxfp4Nearest holds the code of each magnitude of up to mxfp4Most - i half
// steps: of two codes as near the smaller, so what reaches their middle, a
// whole number of half steps, does not yet belong to the larger.
var mxfp4Nearest = func() (codes [2 * mxfp4Most]uint8) {
	for i := range codes[:mxfp4Most] {
		for q := range 7 {
			if float32(mxfp4Most-i) > mxfp4Values[q]+mxfp4Values[q+1] {
				codes[i] = uint8(q + 1)
			}
		}
	}
	return codes
}()

// mxfp4Code returns the code of x, with perHalf half steps in 1, but for its
// sign at most most. Products and differences are exact beside every middle.
func mxfp4Code(x float32, perHalf float64, most uint8) uint8 {
	code := min(mxfp4Nearest[int(mxfp4Most-float64(abs(x))*perHalf)&(2*mxfp4Most-1)], most)
	negative := uint8(math.Float32bits(x)>>28) & 8
	return code | negative&uint8(-int8(code)>>7) // a zero has no sign
}

func (mxfp4) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[mxfp4Bytes]byte)(src[0][i*mxfp4Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d := mxfp4Scale(b[0])
		for j, q := range b[1:] {
			out[j] = float32(mxfp4Values[q&15] * d)
			out[j+blockLen/2] = float32(mxfp4Values[q>>4] * d)
		}
	}
}

func (mxfp4) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, func(block []float32) float64 {
		m := absmax(block)
		if m < 0x1p-125 { // e wraps around
			return m
		}
		return m / 4
	})
}
