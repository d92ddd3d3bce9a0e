package dtype

import (
	"fmt"
	"math/bits"
)

// Type is an element type. The zero value is Invalid.
type Type uint8

// The element types of safetensors, which are a superset of what the other
// containers store unquantized.
const (
	Invalid Type = iota
	Bool
	F4
	F6E2M3
	F6E3M2
	U8
	I8
	F8E5M2
	F8E4M3
	F8E8M0
	F8E4M3FNUZ
	F8E5M2FNUZ
	I16
	U16
	F16
	BF16
	I32
	U32
	F32
	C64
	F64
	I64
	U64
)

// table holds each type's safetensors name and its width in bits.
var table = [...]struct {
	name string
	bits int
}{
	Invalid:    {"INVALID", 0},
	Bool:       {"BOOL", 8},
	F4:         {"F4", 4},
	F6E2M3:     {"F6_E2M3", 6},
	F6E3M2:     {"F6_E3M2", 6},
	U8:         {"U8", 8},
	I8:         {"I8", 8},
	F8E5M2:     {"F8_E5M2", 8},
	F8E4M3:     {"F8_E4M3", 8},
	F8E8M0:     {"F8_E8M0", 8},
	F8E4M3FNUZ: {"F8_E4M3FNUZ", 8},
	F8E5M2FNUZ: {"F8_E5M2FNUZ", 8},
	I16:        {"I16", 16},
	U16:        {"U16", 16},
	F16:        {"F16", 16},
	BF16:       {"BF16", 16},
	I32:        {"I32", 32},
	U32:        {"U32", 32},
	F32:        {"F32", 32},
	C64:        {"C64", 64},
	F64:        {"F64", 64},
	I64:        {"I64", 64},
	U64:        {"U64", 64},
}

// Parse returns the type with the given safetensors name, such as "BF16".
func Parse(name string) (Type, error) {
	for t, e := range table {
		if e.name == name && Type(t) != Invalid {
			return Type(t), nil
		}
	}
	return Invalid, fmt.Errorf("dtype: unknown element type %q", name)
}

// String returns the safetensors name.
func (t Type) String() string {
	if int(t) < len(table) {
		return table[t].name
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// Bits returns the width of one element in bits; 0 for Invalid.
func (t Type) Bits() int {
	if int(t) < len(table) {
		return table[t].bits
	}
	return 0
}

// Size returns the width of one element in bytes, or 0 where an element is
// not a whole number of bytes (F4, F6).
func (t Type) Size() int {
	if b := t.Bits(); b%8 == 0 {
		return b / 8
	}
	return 0
}

// Float reports whether t is a floating-point type that can be cast to F32:
// F32, F16, BF16 or F64.
func (t Type) Float() bool {
	return t == F32 || t == F16 || t == BF16 || t == F64
}

// Bytes returns how many bytes n elements take. It fails where that is not a
// whole number of bytes or does not fit an int64.
func (t Type) Bytes(n int64) (int64, error) {
	if n < 0 {
		return 0, fmt.Errorf("dtype: negative element count %d", n)
	}
	hi, lo := bits.Mul64(uint64(n), uint64(t.Bits()))
	if hi != 0 || lo/8 > 1<<62 {
		return 0, fmt.Errorf("dtype: %d elements of %s overflow", n, t)
	}
	if lo%8 != 0 {
		return 0, fmt.Errorf("dtype: %d elements of %s are not a whole number of bytes", n, t)
	}
	return int64(lo / 8), nil
}

// Elements returns the product of shape's dimensions, 1 for a scalar. It
// fails on a negative dimension and on overflow, even where a later
// dimension is zero.
func Elements(shape []int64) (int64, error) {
	n := uint64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("dtype: negative dimension %d in shape %v", d, shape)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > 1<<62 {
			return 0, fmt.Errorf("dtype: element count of shape %v overflows", shape)
		}
		n = lo
	}
	return int64(n), nil
}

// MarshalText writes the safetensors name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a safetensors name.
func (t *Type) UnmarshalText(b []byte) (err error) {
	*t, err = Parse(string(b))
	return err
}
