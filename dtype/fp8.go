package dtype

import "math"

// Conversions between F32 and the 8-bit floats of the OCP 8-bit Floating Point
// Specification (OFP8), revision 1.0. They round to nearest, ties to even, and
// keep signed zeros and denormals. What is too large becomes an infinity in
// E5M2 and NaN in E4M3, which has no infinity; a NaN becomes the NaN with all
// bits set below its sign.

// MaxF8E4M3 and MaxF8E5M2 are the largest finite values.
const (
	MaxF8E4M3 = 448
	MaxF8E5M2 = 57344
)

// nan8 is the NaN of both types, without its sign.
const nan8 = 0x7f

// F32ToF8E4M3 returns f as E4M3 (torch.float8_e4m3fn): 3 bits of fraction.
func F32ToF8E4M3(f float32) uint8 {
	b := math.Float32bits(f)
	sign := uint8(b>>24) & 0x80
	b &= 0x7fffffff
	switch {
	case b > 0x43e80000: // 464, halfway to where 480 would be
		return sign | nan8
	case b < 0x3c800000: // under 2^-6: the sum's last place is 2^-9, the smallest step
		const magic = 1 << 14
		return sign | uint8(math.Float32bits(math.Float32frombits(b)+magic)-math.Float32bits(magic))
	}
	b += 0x7ffff + b>>20&1 // round at bit 20
	return sign | uint8((b-120<<23)>>20)
}

// F8E4M3ToF32 returns the value of an E4M3. It is exact.
func F8E4M3ToF32(h uint8) float32 {
	sign := uint32(h&0x80) << 24
	if h&0x7f == nan8 {
		return math.Float32frombits(sign | 0x7fc00000)
	}
	// Read with F32's bias the value is 2^120 too small; the product is exact,
	// for denormals too.
	const rebias = 1 << 120
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(uint32(h&0x7f)<<20)*rebias))
}

// F32ToF8E5M2 returns f as E5M2: 2 bits of fraction.
func F32ToF8E5M2(f float32) uint8 {
	b := math.Float32bits(f)
	sign := uint8(b>>24) & 0x80
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | nan8
	case b >= 0x47700000: // 61440, halfway between the largest and 2^16
		return sign | 0x7c
	case b < 0x38800000: // under 2^-14: the sum's last place is 2^-16
		const magic = 1 << 7
		return sign | uint8(math.Float32bits(math.Float32frombits(b)+magic)-math.Float32bits(magic))
	}
	b += 0xfffff + b>>21&1 // round at bit 21
	return sign | uint8((b-112<<23)>>21)
}

// F8E5M2ToF32 returns the value of an E5M2, which is the upper half of an F16.
// It is exact.
func F8E5M2ToF32(h uint8) float32 { return F16ToF32(uint16(h) << 8) }
