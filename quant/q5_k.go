package quant

import "github.com/gantry-ml/gantry/dtype"

// q5K is ggml's block_q5_K (--quant q5_K): 256 values in 176 bytes, the head
// of kscales.go, 32 bytes of fifth bits (bit j of byte k is value k's of group
// j) and 128 bytes of low four bits as in q4_K.
//
//	x ≈ scale × q - minimum, q in 0 to 31
//
// The search (ksearch.go) has no proven bound; a test holds that no value is
// off by more than a fourteenth of the block's range, zero included. See
// blocks.go for input that is not finite.
// Reference: quantize_row_q5_K_ref, dequantize_row_q5_K.
type q5K struct{}

const (
	q5KLow   = kHead + superLen/8 // where the low bits begin
	q5KBytes = q5KLow + superLen/2
)

var q5KSearch = newRangeSearch(31, 32, -0.5, 0.1, 15)

func (q5K) Name() string { return "q5_K" }

func (q5K) Target() Target { return Matrices }

func (s q5K) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, superLen, q5KBytes)
}

func (q5K) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [superLen]float32
	var q [superLen]uint8
	for i := range rows * cols / superLen {
		out := (*[q5KBytes]byte)(dst[0][i*q5KBytes:])
		if !loadSuper(&x, src, i, from) {
			spoil(out[:], 0)
			continue
		}
		q5KSearch.fitHead((*[kHead]byte)(out[:]), &x, &q)
		fifth := out[kHead:q5KLow]
		clear(fifth)
		for j := range superLen / 64 {
			for k := range 32 {
				lo, hi := q[64*j+k], q[64*j+32+k]
				out[q5KLow+32*j+k] = lo&15 | hi<<4
				fifth[k] |= lo>>4<<(2*j) | hi>>4<<(2*j+1)
			}
		}
	}
}

func (q5K) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / superLen {
		b := (*[q5KBytes]byte)(src[0][i*q5KBytes:])
		out := (*[superLen]float32)(dst[i*superLen:])
		fifth := b[kHead:q5KLow]
		for j := range superLen / 32 {
			scale, least := headScale((*[kHead]byte)(b[:]), j)
			for k, low := range b[q5KLow+j/2*32:][:32] {
				q := low>>(j%2*4)&15 | fifth[k]>>j&1<<4
				out[32*j+k] = float32(scale*float32(q)) - least
			}
		}
	}
}

func (q5K) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], superLen, searchBound(1./14, 0, 0x1p-13))
}
