package quant

import "math"

// rangeSearch is how a K type with a minimum looks for its scales: it tries
// inverse scales of so many steps over the range of a group's values.
type rangeSearch struct {
	steps    int32
	group    int // values in a group
	tries    []float32
	absolute bool // weighs |x - x'| by |x|, not its square by |x| + the mean
}

// newRangeSearch returns the search that tries steps, then steps + first + i ×
// stride, i from 0 to last.
func newRangeSearch(steps int32, group int, first, stride float32, last int) rangeSearch {
	s := rangeSearch{steps: steps, group: group, tries: []float32{float32(steps)}}
	for i := range last + 1 {
		s.tries = append(s.tries, first+float32(stride*float32(i))+float32(steps))
	}
	return s
}

// rangeFit is what a search finds for each group of a super-block: x ≈ scale ×
// q - least, where q is x - low, times inverse, rounded and held in [0, steps].
type rangeFit struct {
	scale, least, inverse, low [kGroups]float32
}

// fitPortable fits every group of a super-block.
func (s *rangeSearch) fitPortable(f *rangeFit, x *[superLen]float32) {
	var weights [32]float32
	for j := range superLen / s.group {
		group := x[j*s.group:][:s.group]
		var mean float32
		if !s.absolute {
			var sum float32
			for _, v := range group {
				sum += float32(v * v)
			}
			mean = float32(math.Sqrt(float64(sum / 32)))
		}
		for i, v := range group {
			weights[i] = mean + abs(v)
		}
		f.scale[j], f.least[j], f.inverse[j], f.low[j] = s.fit(group, weights[:])
	}
}

// fit fits one group by weighted least squares for each of the tries.
func (s *rangeSearch) fit(x, weights []float32) (scale, least, inverse, from float32) {
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
		return 0, -low, 0, 0
	}
	inverse = s.tries[0] / (high - low)
	scale, from = 1/inverse, low
	var ls [32]float32
	s.integers(x, inverse, low, &ls)
	best := s.misfit(x, weights, &ls, scale, low)
	for _, try := range s.tries[1:] {
		tryInverse := try / (high - low)
		s.integers(x, tryInverse, low, &ls)
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
			best, scale, inverse, from, low = e, tryScale, tryInverse, low, tryLow
		}
	}
	return scale, -low, inverse, from
}

// integers sets the integer that each value becomes.
func (s *rangeSearch) integers(x []float32, inverse, low float32, ls *[32]float32) {
	for i, v := range x {
		ls[i] = float32(s.integer(v, inverse, low))
	}
}

func (s *rangeSearch) integer(v, inverse, low float32) int32 {
	return min(max(nearest(float32(inverse*(v-low))), 0), s.steps)
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

// finish sets q from the scales and minima of the groups as they are stored;
// where a scale is stored as 0, to what the search rounded to.
func (s *rangeSearch) finish(q *[superLen]uint8, x *[superLen]float32, f *rangeFit, scales, least *[kGroups]float32) {
	var perScale, perLeast [kGroups]float32 // of each 16 values
	for j := range kGroups {
		group := j * 16 / s.group
		perScale[j], perLeast[j] = scales[group], least[group]
		if scales[group] != 0 {
			continue
		}
		for i, v := range x[16*j:][:16] {
			q[16*j+i] = uint8(s.integer(v, f.inverse[group], f.low[group]))
		}
	}
	kernel.round(q, x, &perScale, &perLeast, 0, s.steps)
}
