package quant

import "math"

// The head of q4_K and q5_K, which is the same: F16 d and dmin, and 8 scales
// and 8 minima of 6 bits in 12 bytes, one for each group of 32 values.
//
//	scale(j) = d × s(j), minimum(j) = dmin × m(j)
//
// Bytes 0 to 3 hold s(0..3), bytes 4 to 7 m(0..3), each with the upper two
// bits of s(4..7) and m(4..7) above; bytes 8 to 11 hold the lower four bits
// of s(4..7) and, above them, of m(4..7) (get_scale_min_k4).

const kHead = 2 + 2 + 12

// fitHead chooses the integers, in [0, s.steps], and writes the head.
func (s *rangeSearch) fitHead(head *[kHead]byte, x *[superLen]float32, q *[superLen]uint8) {
	const groups = superLen / 32
	var scales, mins [groups]float32
	var weights [32]float32
	var maxScale, maxMin float32
	for j := range groups {
		group := x[32*j:][:32]
		var sum float32
		for _, v := range group {
			sum += float32(v * v)
		}
		mean := float32(math.Sqrt(float64(sum / 32)))
		for i, v := range group {
			weights[i] = mean + abs(v)
		}
		scales[j], mins[j] = s.fit(group, weights[:], q[32*j:][:32])
		if scales[j] > maxScale {
			maxScale = scales[j]
		}
		if mins[j] > maxMin {
			maxMin = mins[j]
		}
	}
	putHalf(head[:], maxScale/63)
	putHalf(head[2:], maxMin/63)
	var perScale, perMin float32
	if maxScale > 0 {
		perScale = 63 / maxScale
	}
	if maxMin > 0 {
		perMin = 63 / maxMin
	}
	packed := head[4:]
	clear(packed)
	for j := range groups {
		scale := min(uint8(nearest(float32(perScale*scales[j]))), 63)
		least := min(uint8(nearest(float32(perMin*mins[j]))), 63)
		if j < 4 {
			packed[j], packed[j+4] = scale, least
		} else {
			packed[j+4] = scale&15 | least<<4
			packed[j-4] |= scale >> 4 << 6
			packed[j] |= least >> 4 << 6
		}
	}
	for j := range groups {
		scale, least := headScale(head, j)
		if scale == 0 {
			continue
		}
		for i, v := range x[32*j:][:32] {
			q[32*j+i] = uint8(min(max(nearest((v+least)/scale), 0), s.steps))
		}
	}
}

// headScale returns the scale and the minimum of group j.
func headScale(head *[kHead]byte, j int) (scale, least float32) {
	packed := head[4:]
	var s, m uint8
	if j < 4 {
		s, m = packed[j]&63, packed[j+4]&63
	} else {
		s = packed[j+4]&15 | packed[j-4]>>6<<4
		m = packed[j+4]>>4 | packed[j]>>6<<4
	}
	return float32(half(head[:]) * float32(s)), float32(half(head[2:]) * float32(m))
}
