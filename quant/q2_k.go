package quant

import "github.com/gantry-ml/gantry/dtype"

// q2K is ggml's block_q2_K (--quant q2_K): 256 values in 84 bytes, 16 bytes
// with the scale, low, and the minimum, high, of 16 values each, 64 bytes with
// two bits of values k, k+32, k+64 and k+96 of each half of 128, and an F16 d
// and dmin.
//
//	x ≈ d × s × q - dmin × m, q in 0 to 3
//
// The search (ksearch.go) has no proven bound; a test holds that no value is
// off by more than the block's range, zero included. See blocks.go for input
// that is not finite.
// Reference: quantize_row_q2_K_ref, dequantize_row_q2_K.
type q2K struct{}

const (
	q2KLow   = superLen / 16
	q2KD     = q2KLow + superLen/4
	q2KBytes = q2KD + 4
)

var q2KSearch = func() rangeSearch {
	s := newRangeSearch(3, 16, -0.5, 0.1, 15)
	s.absolute = true
	return s
}()

func (q2K) Name() string { return "q2_K" }

func (q2K) Target() Target { return Matrices }

func (s q2K) Layout(from dtype.Type, cols int64) (Layout, error) {
	return blockLayout(s, from, cols, superLen, q2KBytes)
}

func (q2K) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	var x [superLen]float32
	for i := range rows * cols / superLen {
		out := (*[q2KBytes]byte)(dst[0][i*q2KBytes:])
		if loadSuper(&x, src, i, from) {
			encodeQ2K(out, &x)
		} else {
			spoil(out[:], q2KD)
		}
	}
}

func encodeQ2K(out *[q2KBytes]byte, x *[superLen]float32) {
	var q [superLen]uint8
	var f rangeFit
	kernel.fitRange(&q2KSearch, &f, x)
	maxScale, maxMin := largest(f.scale[:]), largest(f.least[:])
	clear(out[:])
	if maxScale > 0 {
		per := 15 / maxScale
		for j, s := range f.scale {
			out[j] = uint8(nearest(float32(per * s)))
		}
		putHalf(out[q2KD:], maxScale/15)
	}
	if maxMin > 0 {
		per := 15 / maxMin
		for j, m := range f.least {
			out[j] |= uint8(nearest(float32(per*m)) << 4)
		}
		putHalf(out[q2KD+2:], maxMin/15)
	}
	var scales, least [kGroups]float32
	for j := range scales {
		scales[j], least[j] = q2KScale(out, j)
	}
	q2KSearch.finish(&q, x, &f, &scales, &least)
	putPairs(out[q2KLow:], &q)
}

// q2KScale returns the scale and the minimum of values 16j to 16j+15.
func q2KScale(b *[q2KBytes]byte, j int) (scale, least float32) {
	return float32(half(b[q2KD:]) * float32(b[j]&15)), float32(half(b[q2KD+2:]) * float32(b[j]>>4))
}

// putPairs packs the low two bits of 256 integers: byte k of each run of 32
// has values k, k+32, k+64 and k+96 of a half of 128.
func putPairs(b []byte, q *[superLen]uint8) {
	for h := range 2 {
		q := q[128*h:][:128]
		for k := range 32 {
			b[32*h+k] = q[k]&3 | q[k+32]&3<<2 | q[k+64]&3<<4 | q[k+96]<<6
		}
	}
}

// pair returns integer i of putPairs.
func pair(b []byte, i int) uint8 { return b[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3 }

func (q2K) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / superLen {
		b := (*[q2KBytes]byte)(src[0][i*q2KBytes:])
		out := (*[superLen]float32)(dst[i*superLen:])
		for j := range superLen / 16 {
			scale, least := q2KScale(b, j)
			for k := 16 * j; k < 16*j+16; k++ {
				out[k] = float32(scale*float32(pair(b[q2KLow:], k))) - least
			}
		}
	}
}

func (q2K) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], superLen, searchBound(1, 0, 0x1p-18))
}
