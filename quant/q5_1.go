package quant

import (
	"encoding/binary"

	"github.com/gantry-ml/gantry/dtype"
)

// q5_1 is ggml's block_q5_1: 32 values in 24 bytes, an F16 scale d, an F16
// minimum m, the fifth bits (bit j of a little-endian 32 is value j's) and 16
// bytes, each with the low four bits of value j and, above them, of value
// j+16.
//
//	m = min(x), d = (max(x) - m) / 31, stored as F16
//	q = floor((x - m) × (1/d) + 0.5), with d and m as F32
//	x ≈ d × q + m, off by at most d / 2 and the rounding of d and m to F16
//
// See blocks.go for input that is not finite.
// Reference: quantize_row_q5_1_ref, dequantize_row_q5_1.
type q5_1 struct{}

const q5_1Bytes = 4 + 4 + blockLen/2

func (q5_1) Name() string { return "q5_1" }

func (q5_1) Target() Target { return Matrices }

func (s q5_1) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, q5_1Bytes)
}

func (q5_1) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks := rows * cols / blockLen
	kernel.q5_1(dst[0][:blocks*q5_1Bytes], src[:blocks*blockLen*from.Size()], from)
}

func q5_1Portable(dst, src []byte, from dtype.Type) {
	var x [blockLen]float32
	for i := range len(dst) / q5_1Bytes {
		out := (*[q5_1Bytes]byte)(dst[i*q5_1Bytes:])
		if !loadBlock(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		m, most := bounds(x[:])
		d := float32(most-m) / 31
		putHalf(out[:], d)
		putHalf(out[2:], m)
		id := inverse(d)
		var fifth uint32
		for j, q := 0, out[8:]; j < len(q); j++ {
			lo := lowByte(float32((x[j]-m)*id) + 0.5)
			hi := lowByte(float32((x[j+blockLen/2]-m)*id) + 0.5)
			q[j] = lo&15 | hi<<4
			fifth |= uint32(lo>>4&1)<<j | uint32(hi>>4&1)<<(j+blockLen/2)
		}
		binary.LittleEndian.PutUint32(out[4:], fifth)
	}
}

func (q5_1) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[q5_1Bytes]byte)(src[0][i*q5_1Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d, m := half(b[:]), half(b[2:])
		fifth := binary.LittleEndian.Uint32(b[4:])
		for j, q := range b[8:] {
			lo := uint32(q&15) | fifth>>j&1<<4
			hi := uint32(q>>4) | fifth>>(j+blockLen/2)&1<<4
			out[j] = float32(float32(lo)*d) + m
			out[j+blockLen/2] = float32(float32(hi)*d) + m
		}
	}
}

func (q5_1) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, rangeBound(31))
}
