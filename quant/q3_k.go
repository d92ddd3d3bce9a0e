package quant

import "github.com/gantry-ml/gantry/dtype"

// q3K is ggml's block_q3_K (--quant q3_K): 256 values in 110 bytes, 32 bytes
// with the third bits (bit j of byte k is value 32j+k's), 64 bytes with the low
// two bits as in q2_K, 16 scales of 6 bits in 12 bytes, one for 16 values, and
// an F16 d. Bytes 0 to 7 of the scales hold the low four bits of s(0..7) and,
// above them, of s(8..15); byte 8+j%4 the upper two bits of s(j) at 2·(j/4).
//
//	x ≈ d × (s - 32) × (q - 4), q in 0 to 7
//
// The search (ksearch.go) has no proven bound; a test holds that no value is
// off by more than half of the block's absmax. See blocks.go for input that is
// not finite.
// Reference: quantize_row_q3_K_ref, dequantize_row_q3_K.
type q3K struct{}

const (
	q3KLow    = superLen / 8
	q3KScales = q3KLow + superLen/4
	q3KD      = q3KScales + 12
	q3KBytes  = q3KD + 2
)

func (q3K) Name() string { return "q3_K" }

func (q3K) Target() Target { return Matrices }

func (s q3K) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, superLen, q3KBytes)
}

func (q3K) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [superLen]float32
	for i := range rows * cols / superLen {
		out := (*[q3KBytes]byte)(dst[0][i*q3KBytes:])
		if loadSuper(&x, src, i, from) {
			encodeQ3K(out, &x)
		} else {
			spoil(out[:], q3KD)
		}
	}
}

func encodeQ3K(out *[q3KBytes]byte, x *[superLen]float32) {
	const steps = 4
	var q [superLen]uint8
	var scales [superLen / 16]float32
	for j := range scales {
		scales[j] = fitGreedy((*[16]float32)(x[16*j:]), (*[16]uint8)(q[16*j:]), steps)
	}
	clear(out[:])
	if m, _ := signedMax(scales[:]); m != 0 {
		inverse := -32 / m
		packed := out[q3KScales:]
		for j, s := range scales {
			l := uint8(min(max(int8(nearest(float32(inverse*s))), -32), 31) + 32)
			packed[j%8] |= l & 15 << (j / 8 * 4)
			packed[8+j%4] |= l >> 4 << (j / 4 * 2)
		}
		putHalf(out[q3KD:], 1/inverse)
	}
	for j := range scales {
		scales[j] = q3KScale(out, j)
	}
	kernel.round(&q, x, &scales, &[kGroups]float32{}, -steps, steps-1)
	for k, l := range q {
		out[k%32] |= l >> 2 << (k / 32)
	}
	putPairs(out[q3KLow:], &q)
}

// q3KScale returns the scale of values 16j to 16j+15.
func q3KScale(b *[q3KBytes]byte, j int) float32 {
	packed := b[q3KScales:]
	s := packed[j%8]>>(j/8*4)&15 | packed[8+j%4]>>(j/4*2)&3<<4
	return float32(half(b[q3KD:]) * float32(int(s)-32))
}

func (q3K) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / superLen {
		b := (*[q3KBytes]byte)(src[0][i*q3KBytes:])
		out := (*[superLen]float32)(dst[i*superLen:])
		for j := range superLen / 16 {
			scale := q3KScale(b, j)
			for k := 16 * j; k < 16*j+16; k++ {
				q := pair(b[q3KLow:], k) | b[k%32]>>(k/32)&1<<2
				out[k] = float32(scale * float32(int(q)-4))
			}
		}
	}
}

func (q3K) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], superLen, searchBound(0, 0.5, 0x1p-18))
}
