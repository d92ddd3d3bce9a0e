package synth

import "math"

// toBF16 rounds a finite value to the nearest bfloat16, ties to even.
func toBF16(f float32) uint16 {
	b := math.Float32bits(f)
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// toF16 rounds a finite value below 65504 to the nearest IEEE half, ties to
// even. Below 2^-14 halves are multiples of 2^-24.
func toF16(f float32) uint16 {
	sign := uint16(math.Float32bits(f) >> 16 & 0x8000)
	v := math.Abs(float64(f))
	if v < 0x1p-14 {
		return sign | uint16(math.RoundToEven(v*0x1p24))
	}
	b := math.Float32bits(float32(v))
	b += 0xfff + b>>13&1
	return sign | uint16(b>>13-(127-15)<<10)
}
