package quant

import "github.com/gantry-ml/gantry/dtype"

// q4_1 is ggml's block_q4_1: 32 values in 20 bytes, an F16 scale d, an F16
// minimum m and 16 bytes, each with value j in its low and value j+16 in its
// high four bits.
//
//	m = min(x), d = (max(x) - m) / 15, stored as F16
//	q = min(15, floor((x - m) × (1/d) + 0.5)), with d and m as F32
//	x ≈ d × q + m, off by at most d / 2 and the rounding of d and m to F16
//
// See blocks.go for input that is not finite.
// Reference: quantize_row_q4_1_ref, dequantize_row_q4_1.
type q4_1 struct{}

const q4_1Bytes = 4 + blockLen/2

func (q4_1) Name() string { return "q4_1" }

func (q4_1) Target() Target { return Matrices }

func (s q4_1) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, q4_1Bytes)
}

func (q4_1) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks := rows * cols / blockLen
	kernel.q4_1(dst[0][:blocks*q4_1Bytes], src[:blocks*blockLen*from.Size()], from)
}

func q4_1Portable(dst, src []byte, from dtype.Type) {
	var x [blockLen]float32
	for i := range len(dst) / q4_1Bytes {
		out := (*[q4_1Bytes]byte)(dst[i*q4_1Bytes:])
		if !loadBlock(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		m, most := bounds(x[:])
		d := float32(most-m) / 15
		putHalf(out[:], d)
		putHalf(out[2:], m)
		id := inverse(d)
		for j, q := 0, out[4:]; j < len(q); j++ {
			lo := min(lowByte(float32((x[j]-m)*id)+0.5), 15)
			hi := min(lowByte(float32((x[j+blockLen/2]-m)*id)+0.5), 15)
			q[j] = lo | hi<<4
		}
	}
}

func (q4_1) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[q4_1Bytes]byte)(src[0][i*q4_1Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d, m := half(b[:]), half(b[2:])
		for j, q := range b[4:] {
			out[j] = float32(float32(q&15)*d) + m
			out[j+blockLen/2] = float32(float32(q>>4)*d) + m
		}
	}
}

func (q4_1) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, rangeBound(15))
}
