package quant

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
	var f rangeFit
	kernel.fitRange(s, &f, x)
	maxScale, maxMin := largest(f.scale[:groups]), largest(f.least[:groups])
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
		scale := min(uint8(nearest(float32(perScale*f.scale[j]))), 63)
		least := min(uint8(nearest(float32(perMin*f.least[j]))), 63)
		if j < 4 {
			packed[j], packed[j+4] = scale, least
		} else {
			packed[j+4] = scale&15 | least<<4
			packed[j-4] |= scale >> 4 << 6
			packed[j] |= least >> 4 << 6
		}
	}
	var scales, least [kGroups]float32
	for j := range groups {
		scales[j], least[j] = headScale(head, j)
	}
	s.finish(q, x, &f, &scales, &least)
}

// largest returns the largest number, and 0 where none is above it.
func largest(x []float32) (most float32) {
	for _, v := range x {
		if v > most {
			most = v
		}
	}
	return most
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
