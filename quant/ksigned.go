package quant

// signedFit is what fitSigned finds for each 16 values of a super-block: x ≈
// scale × q, where q is x times inverse, rounded. Where inverse is 0 the
// values are too small to have a scale.
type signedFit struct {
	scale, inverse [kGroups]float32
}

// q6KSteps is the number of q6_K's integers on either side of 0.
const q6KSteps = 32

// signedTries are the inverse scales that fitSigned tries, times the value of
// the largest magnitude: first the one that gives it the last step, then 18
// around it.
var signedTries = func() (tries []float32) {
	tries = append(tries, -q6KSteps)
	for try := -9; try <= 9; try++ {
		if try != 0 {
			tries = append(tries, -(q6KSteps + float32(float32(0.1)*float32(try))))
		}
	}
	return tries
}()

// signedPortable fits every group of a super-block, with the least
// Σ x²·(x - x')² of all tries.
func signedPortable(f *signedFit, x *[superLen]float32) {
	for j := range kGroups {
		f.scale[j], f.inverse[j] = fitSigned(x[16*j:][:16])
	}
}

func fitSigned(x []float32) (scale, inverse float32) {
	m, absmax := signedMax(x)
	if absmax < groupEpsilon {
		return 0, 0
	}
	inverse = signedTries[0] / m
	sumXL, sumL2 := signedSums(x, inverse)
	if sumL2 != 0 {
		scale = sumXL / sumL2
	}
	best := float32(scale * sumXL)
	for _, try := range signedTries[1:] {
		tryInverse := try / m
		sumXL, sumL2 = signedSums(x, tryInverse)
		if sumL2 > 0 && float32(sumXL*sumXL) > float32(best*sumL2) {
			inverse = tryInverse
			scale = sumXL / sumL2
			best = float32(scale * sumXL)
		}
	}
	return scale, inverse
}

// signedSums returns Σ w·x·l and Σ w·l², weighted by w = x², for the integers l
// that x becomes.
func signedSums(x []float32, inverse float32) (sumXL, sumL2 float32) {
	for _, v := range x {
		l := float32(signedInteger(v, inverse))
		w := float32(v * v)
		sumXL += float32(float32(w*v) * l)
		sumL2 += float32(float32(w*l) * l)
	}
	return sumXL, sumL2
}

func signedInteger(v, inverse float32) int32 {
	return min(max(nearest(float32(inverse*v)), -q6KSteps), q6KSteps-1)
}
