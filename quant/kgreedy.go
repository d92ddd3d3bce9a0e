package quant

// fitGreedy finds q in [0, 2·steps) and a scale with x ≈ scale × (q - steps),
// for few steps: it moves one integer at a time, as
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
