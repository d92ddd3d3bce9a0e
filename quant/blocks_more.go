package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// Block types of ggml without a grid (iq.go) that files have and no scheme here
// writes. d is an F16 scale unless said otherwise; see blocks.go for how sums and
// products round. Reference: ggml-common.h for the blocks, dequantize_row_TYPE of
// ggml-quants.c.

// readQ8_1: d, then d × the sum of q (for dot products, not read), and 32 int8.
// x = d × q. ggml has no reader of its own for it, and never writes it to a
// file of weights.
func readQ8_1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[36:] {
		d := half(src)
		for j, q := range src[4:36] {
			dst[j] = float32(d * float32(int8(q)))
		}
	}
}

// readQ8K: d as F32, 256 int8, and the sums of each 16 (for dot products, not
// read). x = d × q.
func readQ8K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superLen:], src[4+superLen+32:] {
		d := math.Float32frombits(binary.LittleEndian.Uint32(src))
		for j, q := range src[4 : 4+superLen] {
			dst[j] = float32(d * float32(int8(q)))
		}
	}
}

// readQ1_0: d and 128 bits. x = ±d.
func readQ1_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[128:], src[18:] {
		d := half(src)
		for j := range dst[:128] {
			dst[j] = -d
			if src[2+j/8]>>(j%8)&1 != 0 {
				dst[j] = d
			}
		}
	}
}

// readQ2_0: d and 64 times 2 bits. x = d × (q - 1).
func readQ2_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[64:], src[18:] {
		d := half(src)
		for j := range dst[:64] {
			dst[j] = float32(float32(int(src[2+j/4]>>(j%4*2)&3)-1) * d)
		}
	}
}

// readTQ2: 64 bytes, in two halves of 32, each with the 2 bits of four values
// that lie 32 apart, and d. x = d × (q - 1).
func readTQ2(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superLen:], src[66:] {
		d := half(src[64:])
		for j := range superLen {
			q := src[j/128*32+j%32] >> (j % 128 / 32 * 2) & 3
			dst[j] = float32(float32(int(q)-1) * d)
		}
	}
}

// readTQ1: 52 bytes of ternary digits, and d. x = d × (q - 1). A byte holds a
// number below 1 as a fraction of 256: five digits, the first the highest, so
// that the digit n is the whole part of 3 times the fraction after n digits.
// Bytes 0 to 31 hold values that lie 32 apart, bytes 32 to 47 16 apart, and the
// last four bytes four digits each, of values that lie 4 apart.
func readTQ1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superLen:], src[54:] {
		d, at := half(src[52:]), 0
		for _, run := range []struct{ start, len, digits int }{{0, 32, 5}, {32, 16, 5}, {48, 4, 4}} {
			power := uint8(1)
			for range run.digits {
				for _, b := range src[run.start:][:run.len] {
					digit := uint16(b*power) * 3 >> 8
					dst[at] = float32(float32(int(digit)-1) * d)
					at++
				}
				power *= 3
			}
		}
	}
}

// readIQ4XS: d, the upper 2 bits of eight scales, their lower 4 bits, and 256
// levels of iq4_nl in 128 bytes, by groups of 32. x = d × (scale - 32) × level.
func readIQ4XS(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[superLen:], src[136:] {
		d, upper := half(src), binary.LittleEndian.Uint16(src[2:])
		for g := range superLen / 32 {
			scale := src[4+g/2]>>(g%2*4)&15 | uint8(upper>>(2*g)&3)<<4
			dl := float32(d * float32(int(scale)-32))
			out := dst[32*g:][:32]
			for j, q := range src[8+16*g:][:16] {
				out[j] = float32(dl * iq4Levels[q&15])
				out[j+16] = float32(dl * iq4Levels[q>>4])
			}
		}
	}
}

// readNVFP4: four scales, F8 E4M3 without sign, and 64 FP4 in 32 bytes, by
// groups of 16. x = scale × FP4. A scale of 0x7f reads as 0, and 0xff, which
// has a sign that no writer sets, as the number of all other bits, 480
// (ggml_ue4m3_to_fp32).
func readNVFP4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[64:], src[36:] {
		for g, s := range src[:4] {
			d := ue4m3Values[s] / 2 // mxfp4Values are doubled
			out := dst[16*g:][:16]
			for j, q := range src[4+8*g:][:8] {
				out[j] = float32(mxfp4Values[q&15] * d)
				out[j+8] = float32(mxfp4Values[q>>4] * d)
			}
		}
	}
}

// ue4m3Values are the scales of NVFP4's blocks.
var ue4m3Values = func() (values [256]float32) {
	for i := range values {
		values[i] = dtype.F8E4M3ToF32(uint8(i) & 0x7f)
	}
	values[0x7f], values[0xff] = 0, 480
	return values
}()
