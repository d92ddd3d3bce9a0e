package verify

import (
	"encoding/binary"

	"github.com/gantry-ml/gantry/dtype"
)

// values counts NaN and infinities in a tensor whose bytes come in order.
type values struct {
	nan, inf int64
	format   floats
	carry    []byte // of an element that the last bytes ended in
}

// floats is a binary floating-point format: how long an element is, and its
// bits of exponent, all ones in what is no number, and of mantissa, which is
// zero in infinities.
type floats struct {
	size               int
	exponent, mantissa uint64
}

// formats are the element types that hold such values. In F8_E4M3 all ones is
// NaN, and there is no infinity.
var formats = map[dtype.Type]floats{
	dtype.F64:    {8, 0x7ff0_0000_0000_0000, 0x000f_ffff_ffff_ffff},
	dtype.F32:    {4, 0x7f80_0000, 0x007f_ffff},
	dtype.F16:    {2, 0x7c00, 0x03ff},
	dtype.BF16:   {2, 0x7f80, 0x007f},
	dtype.F8E5M2: {1, 0x7c, 0x03},
	dtype.F8E4M3: {1, 0x7f, 0xff},
}

// add looks at the next bytes.
func (v *values) add(p []byte) {
	size := v.format.size
	if len(v.carry) > 0 {
		n := min(size-len(v.carry), len(p))
		v.carry, p = append(v.carry, p[:n]...), p[n:]
		if len(v.carry) < size {
			return
		}
		v.whole(v.carry)
		v.carry = v.carry[:0]
	}
	whole := len(p) / size * size
	v.whole(p[:whole])
	v.carry = append(v.carry, p[whole:]...)
}

// whole looks at whole elements.
func (v *values) whole(p []byte) {
	switch f := v.format; f.size {
	case 8:
		for ; len(p) >= 8; p = p[8:] {
			v.one(binary.LittleEndian.Uint64(p))
		}
	case 4:
		for ; len(p) >= 4; p = p[4:] {
			if x := uint64(binary.LittleEndian.Uint32(p)); x&f.exponent == f.exponent {
				v.one(x)
			}
		}
	case 2:
		for ; len(p) >= 2; p = p[2:] {
			if x := uint64(binary.LittleEndian.Uint16(p)); x&f.exponent == f.exponent {
				v.one(x)
			}
		}
	case 1:
		for _, x := range p {
			v.one(uint64(x))
		}
	}
}

func (v *values) one(x uint64) {
	switch f := v.format; {
	case x&f.exponent != f.exponent:
	case x&f.mantissa != 0:
		v.nan++
	default:
		v.inf++
	}
}
