package quant

import "github.com/gantry-ml/gantry/dtype"

// q4_0 is ggml's block_q4_0: 32 values in 18 bytes, an F16 scale d and 16
// bytes, each with value j in its low and value j+16 in its high four bits.
//
//	d = m / -8, where m is the value of the largest magnitude, stored as F16
//	q = min(15, floor(x × (1/d) + 8.5)), with d as F32
//	x ≈ d × (q - 8), off by at most |d| and the rounding of d to F16
//
// The whole step |d|, not its half, is for values of the other sign than m:
// they end at 7 steps, not 8. See blocks.go for input that is not finite.
// Reference: quantize_row_q4_0_ref, dequantize_row_q4_0.
type q4_0 struct{}

const q4_0Bytes = 2 + blockLen/2

func (q4_0) Name() string { return "q4_0" }

func (q4_0) Target() Target { return Matrices }

func (s q4_0) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, blockLen, q4_0Bytes)
}

func (q4_0) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks := rows * cols / blockLen
	kernel.q4_0(dst[0][:blocks*q4_0Bytes], src[:blocks*blockLen*from.Size()], from)
}

func q4_0Portable(dst, src []byte, from dtype.Type) {
	var x [blockLen]float32
	for i := range len(dst) / q4_0Bytes {
		out := (*[q4_0Bytes]byte)(dst[i*q4_0Bytes:])
		if !loadBlock(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		m, _ := signedMax(x[:])
		d := m / -8
		putHalf(out[:], d)
		id := inverse(d)
		for j, q := 0, out[2:]; j < len(q); j++ {
			lo := min(lowByte(float32(x[j]*id)+8.5), 15)
			hi := min(lowByte(float32(x[j+blockLen/2]*id)+8.5), 15)
			q[j] = lo | hi<<4
		}
	}
}

func (q4_0) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / blockLen {
		b := (*[q4_0Bytes]byte)(src[0][i*q4_0Bytes:])
		out := (*[blockLen]float32)(dst[i*blockLen:])
		d := half(b[:])
		for j, q := range b[2:] {
			out[j] = float32(float32(int(q&15)-8) * d)
			out[j+blockLen/2] = float32(float32(int(q>>4)-8) * d)
		}
	}
}

func (q4_0) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], blockLen, signedBound(8))
}
