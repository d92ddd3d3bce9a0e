package dtype

import "math"

// Conversions between F32 and the 16-bit floats. All round to nearest, ties
// to even, keep signed zeros and denormals, and turn what is too large into
// an infinity. A NaN stays a NaN: it keeps its sign and the upper bits of its
// payload and becomes quiet, which is what x86's F16C does, so that every
// kernel can give the same bytes.

// F32ToF16 returns f as IEEE 754 binary16.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x477ff000: // 65520, halfway between the largest half and 2^16
		return sign | 0x7c00
	case b < 0x38800000: // under 2^-14: the sum's last place is 2^-24, a half's smallest step
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	}
	b += 0xfff + b>>13&1 // round at bit 13
	return sign | uint16((b-112<<23)>>13)
}

// F16ToF32 returns the value of an IEEE 754 binary16. It is exact.
func F16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	b := uint32(h&0x7fff) << 13
	if b >= 0x1f<<23 { // infinity or NaN
		b |= 0x7f800000
		if b > 0x7f800000 {
			b |= 0x400000
		}
		return math.Float32frombits(sign | b)
	}
	// Read with F32's bias the value is 2^112 too small; the product is exact,
	// for denormals too.
	const rebias = 1 << 112
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(b)*rebias))
}

// F32ToBF16 returns f as bfloat16, the upper half of an F32.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 { // NaN: rounding could carry it into an infinity
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// BF16ToF32 returns the value of a bfloat16. It is exact, bit for bit.
func BF16ToF32(h uint16) float32 {
	return math.Float32frombits(uint32(h) << 16)
}

// F64ToF32Odd returns f rounded to odd: where f lies between two F32 values,
// the one with the odd last bit. F32ToF16 and F32ToBF16 of the result round
// the F64 once, where rounding it to nearest first would round it twice.
// Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums".
func F64ToF32Odd(f float64) float32 {
	n := float32(f)
	back := float64(n)
	if back == f || f != f {
		return n
	}
	b := math.Float32bits(n)
	if math.Abs(back) > math.Abs(f) {
		b-- // towards zero; an infinity becomes the largest F32
	}
	return math.Float32frombits(b | 1)
}
