package quant

import "math"

// The searches of ggml's K types: each takes a group of 16 or 32 values and
// chooses a scale (and a minimum) and the integers for it. They follow
// make_qx_quants, make_q3_quants and make_qkx2_quants of ggml-quants.c
// operation by operation, since the bytes depend on how each sum rounds.

// nearest rounds y to an integer, half to even, as the reference's nearest_int
// does: added to 1.5·2²³ a number's fraction is rounded away. Beyond ±2²² the
// result is what the low 23 bits say; it is 0 for NaN.
func nearest(y float32) int32 {
	bits := math.Float32bits(y + 12582912)
	return int32(bits&0x007fffff) - 0x00400000
}

// fitSigned finds q in [0, 2·steps) and a scale with x ≈ scale × (q - steps),
// with the least Σ x²·(x - x')² of 19 scales around the one that the value of
// the largest magnitude sets.
func fitSigned(x []float32, q []uint8, steps int32) (scale float32) {
	m, absmax := signedMax(x)
	if absmax < groupEpsilon {
		clear(q)
		return 0
	}
	inverse := float32(-steps) / m
	sumXL, sumL2 := signedSums(x, inverse, steps)
	putSigned(q, x, inverse, steps)
	if sumL2 != 0 {
		scale = sumXL / sumL2
	}
	best := float32(scale * sumXL)
	for try := int32(-9); try <= 9; try++ {
		if try == 0 {
			continue
		}
		inverse = -(float32(steps) + float32(float32(0.1)*float32(try))) / m
		sumXL, sumL2 = signedSums(x, inverse, steps)
		if sumL2 > 0 && float32(sumXL*sumXL) > float32(best*sumL2) {
			putSigned(q, x, inverse, steps)
			scale = sumXL / sumL2
			best = float32(scale * sumXL)
		}
	}
	return scale
}

// signedSums returns Σ w·x·l and Σ w·l², weighted by w = x², for the integers l
// that x becomes.
func signedSums(x []float32, inverse float32, steps int32) (sumXL, sumL2 float32) {
	for _, v := range x {
		l := float32(min(max(nearest(float32(inverse*v)), -steps), steps-1))
		w := float32(v * v)
		sumXL += float32(float32(w*v) * l)
		sumL2 += float32(float32(w*l) * l)
	}
	return sumXL, sumL2
}

func putSigned(q []uint8, x []float32, inverse float32, steps int32) {
	for i, v := range x {
		q[i] = uint8(min(max(nearest(float32(inverse*v)), -steps), steps-1) + steps)
	}
}

// fitGreedy is fitSigned for few steps: it moves one integer at a time, as
// long as that makes the weighted error smaller, in at most 5 rounds.
func fitGreedy(x *[16]float32, q *[16]uint8, steps int32) (scale float32) {
	m, absmax := signedMax(x[:])
	if absmax < groupEpsilon {
		clear(q[:])
		return 0
	}
	inverse := float32(-steps) / m
	var ls [16]float32
	var sumXL, sumL2 float32
	for i, v := range x {
		l := float32(min(max(nearest(float32(inverse*v)), -steps), steps-1))
		w := float32(v * v)
		sumXL += float32(float32(w*v) * l)
		sumL2 += float32(float32(w*l) * l)
		ls[i] = l
	}
	for range 5 {
		moved := false
		for i, v := range x {
			w, l := float32(v*v), ls[i]
			xl := sumXL - float32(float32(w*v)*l)
			if !(xl > 0) {
				continue
			}
			l2 := sumL2 - float32(float32(w*l)*l)
			to := float32(min(max(nearest(float32(v*l2)/xl), -steps), steps-1))
			if to == l {
				continue
			}
			xl += float32(float32(w*v) * to)
			l2 += float32(float32(w*to) * to)
			if l2 > 0 && float32(float32(xl*xl)*sumL2) > float32(float32(sumXL*sumXL)*l2) {
				ls[i], sumXL, sumL2 = to, xl, l2
				moved = true
			}
		}
		if !moved {
			break
		}
	}
	for i, l := range ls {
		q[i] = uint8(int32(l) + steps)
	}
	if sumL2 > 0 {
		return sumXL / sumL2
	}
	return 0
}

// rangeSearch is how a K type with a minimum looks for its scales: tries
// inverse scales (steps + first + i × stride) / (max - min), i from 0 to last.
type rangeSearch struct {
	steps         int32
	first, stride float32
	last          int32
	absolute      bool // weighs |x - x'|, not its square
}

// fit finds q in [0, steps], a scale and a minimum with x ≈ scale × q - least,
// by weighted least squares for each of the tries. len(x) is at most 32.
func (s *rangeSearch) fit(x, weights []float32, q []uint8) (scale, least float32) {
	low, high := bounds(x)
	sumW := weights[0]
	sumX := float32(sumW * x[0])
	for i, v := range x[1:] {
		w := weights[1+i]
		sumW += w
		sumX += float32(w * v)
	}
	if low > 0 {
		low = 0
	}
	if high == low {
		clear(q)
		return 0, -low
	}
	inverse := float32(s.steps) / (high - low)
	scale = 1 / inverse
	var ls [32]float32
	s.integers(x, inverse, low, &ls)
	best := s.misfit(x, weights, &ls, scale, low)
	putIntegers(q, &ls)
	for try := range s.last + 1 {
		inverse = (s.first + float32(s.stride*float32(try)) + float32(s.steps)) / (high - low)
		s.integers(x, inverse, low, &ls)
		var sumL, sumL2, sumXL float32
		for i, v := range x {
			w, l := weights[i], ls[i]
			wl := float32(w * l)
			sumL += wl
			sumL2 += float32(wl * l)
			sumXL += float32(wl * v)
		}
		det := float32(sumW*sumL2) - float32(sumL*sumL)
		if !(det > 0) {
			continue
		}
		tryScale := (float32(sumW*sumXL) - float32(sumX*sumL)) / det
		tryLow := (float32(sumL2*sumX) - float32(sumL*sumXL)) / det
		if tryLow > 0 {
			tryLow = 0
			tryScale = sumXL / sumL2
		}
		if e := s.misfit(x, weights, &ls, tryScale, tryLow); e < best {
			putIntegers(q, &ls)
			best, scale, low = e, tryScale, tryLow
		}
	}
	return scale, -low
}

// integers sets the integer that each value becomes.
func (s *rangeSearch) integers(x []float32, inverse, low float32, ls *[32]float32) {
	for i, v := range x {
		ls[i] = float32(min(max(nearest(float32(inverse*(v-low))), 0), s.steps))
	}
}

// misfit is the weighted error of a fit.
func (s *rangeSearch) misfit(x, weights []float32, ls *[32]float32, scale, low float32) (sum float32) {
	for i, v := range x {
		off := float32(scale*ls[i]) + low - v
		if s.absolute {
			off = abs(off)
		} else {
			off = float32(off * off)
		}
		sum += float32(weights[i] * off)
	}
	return sum
}

func putIntegers(q []uint8, ls *[32]float32) {
	for i := range q {
		q[i] = uint8(ls[i])
	}
}
