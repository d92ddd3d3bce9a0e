package quant

import (
	"encoding/binary"

	"github.com/gantry-ml/gantry/dtype"
)

// q5_0 is ggml's block_q5_0: 32 values in 22 bytes, an F16 scale d, the fifth
// bits (bit j of a little-endian 32 is value j's) and 16 bytes, each with the
// low four bits of value j and, above them, of value j+16.
//
//	d = m / -16, where m is the value of the largest magnitude, stored as F16
//	q = min(31, floor(x × (1/d) + 16.5)), with d as F32
//	x ≈ d × (q - 16), off by at most |d| and the rounding of d to F16
//
// The whole step |d|, not its half, is for values of the other sign than m:
// they end at 15 steps, not 16. See blocks.go for input that is not finite.
// Reference: quantize_row_q5_0_ref, dequantize_row_q5_0.
type q5_0 struct{}

const q5_0Bytes = 2 + 4 + blockLen/2

func (q5_0) Name() string { return "q5_0" }

func (q5_0) Target() Target { return Matrices }

func (s q5_0) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, q5_0Bytes)
}

func (q5_0) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks := rows * cols / blockLen
	kernel.q5_0(dst[0][:blocks*q5_0Bytes], src[:blocks*blockLen*from.Size()], from)
}

func q5_0Portable(dst, src []byte, from dtype.Type) {
	var x [blockLen]float32
	for i := range len(dst) / q5_0Bytes {
		out := (*[q5_0Bytes]byte)(dst[i*q5_0Bytes:])
		if !loadBlock(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		m, _ := signedMax(x[:])
		d := m / -16
		putHalf(out[:], d)
		id := inverse(d)
		var fifth uint32
		for j, q := 0, out[6:]; j < len(q); j++ {
			lo := min(lowByte(float32(x[j]*id)+16.5), 31)
			hi := min(lowByte(float32(x[j+blockLen/2]*id)+16.5), 31)
			q[j] = lo&15 | hi<<4
			fifth |= uint32(lo>>4)<<j | uint32(hi>>4)<<(j+blockLen/2)
		}
		binary.LittleEndian.PutUint32(out[2:], fifth)
	}
}

func (q5_0) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[q5_0Bytes]byte)(src[0][i*q5_0Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d := half(b[:])
		fifth := binary.LittleEndian.Uint32(b[2:])
		for j, q := range b[6:] {
			lo := int(q&15) | int(fifth>>j&1)<<4
			hi := int(q>>4) | int(fifth>>(j+blockLen/2)&1)<<4
			out[j] = float32(float32(lo-16) * d)
			out[j+blockLen/2] = float32(float32(hi-16) * d)
		}
	}
}

func (q5_0) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, signedBound(16))
}
