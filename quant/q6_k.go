package quant

import "github.com/gantry-ml/gantry/dtype"

// q6K is ggml's block_q6_K (--quant q6_K): 256 values in 210 bytes. In each
// half of 128 values, four groups of 32: 64 bytes with the low four bits, of
// groups 0 and 1 low and of 2 and 3 high, and 32 bytes with the upper two bits
// of all four. The low bits of both halves come first, then the upper ones,
// then 16 int8 scales, one for 16 values, and an F16 d.
//
//	x ≈ d × s × (q - 32), q in 0 to 63
//
// The search (ksearch.go) has no proven bound; a test holds that no value is
// off by more than a sixteenth of the block's absmax. See blocks.go for input
// that is not finite.
// Reference: quantize_row_q6_K_ref, dequantize_row_q6_K.
type q6K struct{}

const (
	q6KUpper  = superLen / 2
	q6KScales = q6KUpper + superLen/4
	q6KD      = q6KScales + superLen/16
	q6KBytes  = q6KD + 2
)

func (q6K) Name() string { return "q6_K" }

func (q6K) Target() Target { return Matrices }

func (s q6K) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, superLen, q6KBytes)
}

func (q6K) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [superLen]float32
	for i := range rows * cols / superLen {
		out := (*[q6KBytes]byte)(dst[0][i*q6KBytes:])
		if loadSuper(&x, src, i, from) {
			encodeQ6K(out, &x)
		} else {
			spoil(out[:], q6KD)
		}
	}
}

func encodeQ6K(out *[q6KBytes]byte, x *[superLen]float32) {
	var f signedFit
	kernel.fitSigned(&f, x)
	m, most := signedMax(f.scale[:])
	if most < groupEpsilon {
		clear(out[:])
		return
	}
	inverse := -128 / m
	putHalf(out[q6KD:], 1/inverse)
	d := half(out[q6KD:])
	var q [superLen]uint8
	var scales [kGroups]float32
	for j, s := range f.scale {
		l := int8(min(nearest(float32(inverse*s)), 127))
		out[q6KScales+j] = uint8(l)
		scales[j] = float32(d * float32(l))
		if scales[j] == 0 && f.inverse[j] != 0 {
			for k, v := range x[16*j:][:16] {
				q[16*j+k] = uint8(signedInteger(v, f.inverse[j]) + q6KSteps)
			}
		}
	}
	kernel.round(&q, x, &scales, &[kGroups]float32{}, -q6KSteps, q6KSteps-1)
	for h := range 2 {
		q, low, upper := q[128*h:][:128], out[64*h:][:64], out[q6KUpper+32*h:][:32]
		for k := range upper {
			low[k] = q[k]&15 | q[k+64]<<4
			low[k+32] = q[k+32]&15 | q[k+96]<<4
			upper[k] = q[k]>>4 | q[k+32]>>4<<2 | q[k+64]>>4<<4 | q[k+96]>>4<<6
		}
	}
}

func (q6K) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / superLen {
		b := (*[q6KBytes]byte)(src[0][i*q6KBytes:])
		out := (*[superLen]float32)(dst[i*superLen:])
		d := half(b[q6KD:])
		for j := range superLen / 16 {
			scale := float32(d * float32(int8(b[q6KScales+j])))
			h, group, at := j/8, j/2%4, j%2*16 // the half, the 32 in it, the 16 in those
			low := b[64*h+group%2*32+at:][:16]
			upper := b[q6KUpper+32*h+at:][:16]
			for k := range low {
				q := low[k]>>(group/2*4)&15 | upper[k]>>(2*group)&3<<4
				out[16*j+k] = float32(scale * float32(int(q)-32))
			}
		}
	}
}

func (q6K) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], superLen, searchBound(0, 1./16, 0x1p-13))
}
