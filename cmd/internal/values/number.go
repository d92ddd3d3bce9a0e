package values

import (
	"fmt"
	"math"
	"strconv"

	"github.com/gantry-ml/gantry/dtype"
)

// Number returns element i of a tensor's bytes: a float64 of F64, a float32 of
// other floats, so that it is written with no more digits than it has, an int64,
// uint64 or bool. Types that have no numbers here give their bits as a uint64.
func Number(t dtype.Type, b []byte, i int) any {
	n := t.Bits()
	bits := bitsAt(b, i, n)
	switch t {
	case dtype.Bool:
		return bits != 0
	case dtype.I4, dtype.I8, dtype.I16, dtype.I32, dtype.I64:
		return int64(bits<<(64-n)) >> (64 - n)
	}
	f, ok := float(t, bits)
	switch {
	case !ok:
		return bits
	case t == dtype.F64:
		return f
	}
	return float32(f)
}

// float returns the value of a float's bits, false where t is none.
func float(t dtype.Type, bits uint64) (float64, bool) {
	switch t {
	case dtype.F64:
		return math.Float64frombits(bits), true
	case dtype.F32:
		return float64(math.Float32frombits(uint32(bits))), true
	case dtype.F16:
		return float64(dtype.F16ToF32(uint16(bits))), true
	case dtype.BF16:
		return float64(dtype.BF16ToF32(uint16(bits))), true
	case dtype.F8E4M3:
		return float64(dtype.F8E4M3ToF32(uint8(bits))), true
	case dtype.F8E5M2:
		return float64(dtype.F8E5M2ToF32(uint8(bits))), true
	case dtype.F8E4M3FNUZ:
		return float64(dtype.F8E4M3FNUZToF32(uint8(bits))), true
	case dtype.F8E5M2FNUZ:
		return float64(dtype.F8E5M2FNUZToF32(uint8(bits))), true
	}
	return 0, false
}

// put writes a number, as a user writes it, to element i.
func put(t dtype.Type, b []byte, i int, s string) error {
	bits, err := bitsOf(t, s)
	if err != nil {
		return err
	}
	putBits(b, i, t.Bits(), bits)
	return nil
}

// bitsOf returns the bits of the element that s stands for.
func bitsOf(t dtype.Type, s string) (uint64, error) {
	n := t.Bits()
	switch t {
	case dtype.Bool:
		switch s {
		case "true", "1":
			return 1, nil
		case "false", "0":
			return 0, nil
		}
		return 0, fmt.Errorf("%s is neither true nor false", s)
	case dtype.I4, dtype.I8, dtype.I16, dtype.I32, dtype.I64:
		v, err := strconv.ParseInt(s, 10, n)
		return uint64(v), asInteger(s, n, err)
	case dtype.U4, dtype.U8, dtype.U16, dtype.U32, dtype.U64:
		v, err := strconv.ParseUint(s, 10, n)
		return v, asInteger(s, n, err)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no number", s)
	}
	bits, ok := floatBits(t, f)
	if !ok {
		return 0, fmt.Errorf("numbers are not encoded as %s here: give a .npy file", t)
	}
	if got, _ := float(t, bits); got-got != 0 && f-f == 0 {
		return 0, fmt.Errorf("%s does not fit %s", s, t)
	}
	return bits, nil
}

func asInteger(s string, bits int, err error) error {
	if err != nil {
		return fmt.Errorf("%s is no integer of %d bits", s, bits)
	}
	return nil
}

// floatBits rounds to nearest even; false where t has no encoder.
func floatBits(t dtype.Type, f float64) (uint64, bool) {
	narrow := dtype.F64ToF32Odd(f) // so that rounding twice is rounding once
	switch t {
	case dtype.F64:
		return math.Float64bits(f), true
	case dtype.F32:
		return uint64(math.Float32bits(float32(f))), true
	case dtype.F16:
		return uint64(dtype.F32ToF16(narrow)), true
	case dtype.BF16:
		return uint64(dtype.F32ToBF16(narrow)), true
	case dtype.F8E4M3:
		return uint64(dtype.F32ToF8E4M3(narrow)), true
	case dtype.F8E5M2:
		return uint64(dtype.F32ToF8E5M2(narrow)), true
	}
	return 0, false
}

// bitsAt returns element i, of n bits; elements of less than a byte are packed
// from the lowest bits on.
func bitsAt(b []byte, i, n int) (bits uint64) {
	if n < 8 {
		per := 8 / n
		return uint64(b[i/per]>>(n*(i%per))) & (1<<n - 1)
	}
	size := n / 8
	for k := range size {
		bits |= uint64(b[i*size+k]) << (8 * k)
	}
	return bits
}

// putBits is the inverse of bitsAt, on bytes that are zero.
func putBits(b []byte, i, n int, bits uint64) {
	if n < 8 {
		per := 8 / n
		b[i/per] |= byte(bits&(1<<n-1)) << (n * (i % per))
		return
	}
	size := n / 8
	for k := range size {
		b[i*size+k] = byte(bits >> (8 * k))
	}
}
