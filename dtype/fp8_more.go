package dtype

import "math"

// The 8-bit floats that stored weights and their scales have besides those of
// OFP8. All values are exact.

// F8E4M3FNUZToF32 returns the value of an E4M3 without negative zero
// (torch.float8_e4m3fnuz): the exponent's bias is one more than E4M3's, 0x80 is
// the only NaN.
func F8E4M3FNUZToF32(h uint8) float32 {
	switch h & 0x7f {
	case 0:
		return fnuzZero(h)
	case nan8: // a number here, where E4M3 has its NaN
		return math.Float32frombits(uint32(h&0x80)<<24 | math.Float32bits(240))
	}
	return F8E4M3ToF32(h) / 2
}

// F8E5M2FNUZToF32 returns the value of an E5M2 without negative zero, infinity
// and NaN but 0x80 (torch.float8_e5m2fnuz): the bias is one more than E5M2's.
func F8E5M2FNUZToF32(h uint8) float32 {
	if h&0x7f == 0 {
		return fnuzZero(h)
	}
	// Read with F32's bias the value is 2^111 too small.
	const rebias = 1 << 111
	return math.Float32frombits(uint32(h&0x80)<<24 | math.Float32bits(math.Float32frombits(uint32(h&0x7f)<<21)*rebias))
}

func fnuzZero(h uint8) float32 {
	if h == 0 {
		return 0
	}
	return math.Float32frombits(0x7fc00000)
}

// F8E8M0ToF32 returns the value of an E8M0, a power of two without sign:
// 2^(h-127), NaN for 255 (OCP Microscaling Formats (MX) 1.0, 5.4.1).
func F8E8M0ToF32(h uint8) float32 {
	switch h {
	case 0:
		return 0x1p-127
	case 255:
		return math.Float32frombits(0x7fc00000)
	}
	return math.Float32frombits(uint32(h) << 23)
}
