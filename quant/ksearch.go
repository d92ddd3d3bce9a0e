package quant

import "math"

// What the searches of ggml's K types share. Each takes a group of 16 or 32
// values of a super-block and chooses a scale (and a minimum) and the integers
// for it. They follow make_qx_quants, make_q3_quants and make_qkx2_quants of
// ggml-quants.c operation by operation, since the bytes depend on how each sum
// rounds. Where a kernel has lanes, it searches 8 groups side by side, which
// changes no sum of any.

// kGroups is the most groups that a super-block has.
const kGroups = superLen / 16

// nearest rounds y to an integer, half to even, as the reference's nearest_int
// does: added to 1.5·2²³ a number's fraction is rounded away. Beyond ±2²² the
// result is what the low 23 bits say; it is 0 for NaN.
func nearest(y float32) int32 {
	bits := math.Float32bits(y + 12582912)
	return int32(bits&0x007fffff) - 0x00400000
}

// roundPortable sets q of each 16 values to nearest((x + least) / scale), held
// in [low, high], minus low. It leaves q alone where the scale is 0.
func roundPortable(q *[superLen]uint8, x *[superLen]float32, scales, least *[kGroups]float32, low, high int32) {
	for j, scale := range scales {
		if scale == 0 {
			continue
		}
		q, least := q[16*j:][:16], least[j]
		for i, v := range x[16*j:][:16] {
			q[i] = uint8(min(max(nearest((v+least)/scale), low), high) - low)
		}
	}
}
