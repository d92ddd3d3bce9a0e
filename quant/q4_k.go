package quant

import "github.com/gantry-ml/gantry/dtype"

// q4K is ggml's block_q4_K (--quant q4_K): 256 values in 144 bytes, the head
// of kscales.go and 128 bytes, four runs of 32, each with value j of a group of
// 32 in the low and value j of the next group in the high four bits.
//
//	x ≈ scale × q - minimum, q in 0 to 15
//
// The search (ksearch.go) has no proven bound; a test holds that no value is
// off by more than a seventh of the block's range, zero included, where
// rounding to 16 even steps would be off by a thirtieth. See blocks.go for
// input that is not finite.
// Reference: quantize_row_q4_K_ref, dequantize_row_q4_K.
type q4K struct{}

const q4KBytes = kHead + superLen/2

var q4KSearch = newRangeSearch(15, 32, -1, 0.1, 20)

func (q4K) Name() string { return "q4_K" }

func (q4K) Target() Target { return Matrices }

func (s q4K) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, superLen, q4KBytes)
}

func (q4K) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [superLen]float32
	var q [superLen]uint8
	for i := range rows * cols / superLen {
		out := (*[q4KBytes]byte)(dst[0][i*q4KBytes:])
		if !loadSuper(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		q4KSearch.fitHead((*[kHead]byte)(out[:]), &x, &q)
		for j := range superLen / 64 {
			for k := range 32 {
				out[kHead+32*j+k] = q[64*j+k] | q[64*j+32+k]<<4
			}
		}
	}
}

func (q4K) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / superLen {
		b := (*[q4KBytes]byte)(src[0][i*q4KBytes:])
		out := (*[superLen]float32)(dst[i*superLen:])
		for j := range superLen / 32 {
			scale, least := headScale((*[kHead]byte)(b[:]), j)
			for k, q := range b[kHead+j/2*32:][:32] {
				out[32*j+k] = float32(scale*float32(q>>(j%2*4)&15)) - least
			}
		}
	}
}

func (q4K) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], superLen, searchBound(1./7, 0, 0x1p-14))
}
