package quant

import "math"

// What the schemes' error bounds have in common. They are worked out in
// float64, from the formulas of the schemes' doc comments.

const (
	// rounded covers the F32 roundings of a scale, its inverse and up to 255
	// steps: each is 2⁻²⁴ of what it rounds.
	rounded = 1 + 0x1p-14
	// maxHalf is what F16 no longer holds: halfway from its largest to 2¹⁶.
	maxHalf = 65520
)

// boundRuns gives the values of each run of n the run's bound, and those of a
// run that is not finite an infinity.
func boundRuns(dst []float64, src []float32, n int, bound func(run []float32) float64) {
	for at := 0; at < len(src); at += n {
		run := src[at : at+n]
		b := math.Inf(1)
		if absmax(run) < b {
			b = bound(run)
		}
		for i := range run {
			dst[at+i] = b
		}
	}
}

// absmax returns the largest magnitude, an infinity where there is a NaN.
func absmax(run []float32) (most float64) {
	for _, x := range run {
		if x != x {
			return math.Inf(1)
		}
		most = max(most, math.Abs(float64(x)))
	}
	return most
}

// halfSteps is what storing the scale d as F16 adds to the error of a value of
// up to the given number of steps. It is infinite where F16 does not hold d.
func halfSteps(d, steps float64) float64 {
	if d >= maxHalf {
		return math.Inf(1)
	}
	return steps * max(d*0x1p-11, 0x1p-25) * rounded
}

// signedBound is the bound of a block with one F16 scale, absmax / steps: a
// whole step.
func signedBound(steps float64) func([]float32) float64 {
	return func(block []float32) float64 {
		d := absmax(block) / steps
		return d*rounded + halfSteps(d, steps)
	}
}

// rangeBound is the bound of a block with an F16 scale, (max - min) / steps,
// and an F16 minimum: half a step.
func rangeBound(steps float64) func([]float32) float64 {
	return func(block []float32) float64 {
		least, most := bounds(block)
		d := (float64(most) - float64(least)) / steps
		return d/2*rounded + halfSteps(d, steps) + halfSteps(math.Abs(float64(least)), 1)
	}
}

// searchBound is the bound of a block whose scales are searched for: a part of
// its range, zero included, or of its absmax, and what F16 makes of small
// scales. None is promised where the values themselves overflow F16.
func searchBound(ofRange, ofAbsmax, small float64) func([]float32) float64 {
	return func(block []float32) float64 {
		least, most := bounds(block)
		m := absmax(block)
		if m >= maxHalf {
			return math.Inf(1)
		}
		return ofRange*(float64(max(most, 0))-float64(min(least, 0))) + ofAbsmax*m + small
	}
}

// halfStep is the bound of values that are rounded to a step, of which codes
// reach as far as steps. It is infinite where the outermost of them overflows
// F32.
func halfStep(step, steps float64) float64 {
	if step*(steps+1)/2*rounded >= math.MaxFloat32 {
		return math.Inf(1)
	}
	return step / 2 * (1 + 0x1p-12)
}
