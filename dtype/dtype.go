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

// The element types that only ONNX files have besides: integers of 4 and 2
// bits, packed from the lowest bits of a byte on, and C128.
const (
	I4 Type = U64 + 1 + iota
	U4
	I2
	U2
	C128
)

// ggml's block types: so many elements of a row share their scales and are
// stored together. Only GGUF files have them.
const (
	Q1_0 Type = C128 + 1 + iota
	Q2_0
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q8_1
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K
	Q8_K
	IQ1_S
	IQ1_M
	IQ2_XXS
	IQ2_XS
	IQ2_S
	IQ3_XXS
	IQ3_S
	IQ4_NL
	IQ4_XS
	TQ1_0
	TQ2_0
	MXFP4
	NVFP4
)

// table holds each type's name and the smallest run of elements that is a
// whole number of bytes. Names of element types are those of safetensors,
// names and blocks of the others those of libggml (ggml_type_name,
// ggml_blck_size, ggml_type_size), in capitals.
var table = [...]struct {
	name     string
	elements int64
	bytes    int64
}{
	Invalid:    {"INVALID", 0, 0},
	Bool:       {"BOOL", 1, 1},
	F4:         {"F4", 2, 1},
	F6E2M3:     {"F6_E2M3", 4, 3},
	F6E3M2:     {"F6_E3M2", 4, 3},
	U8:         {"U8", 1, 1},
	I8:         {"I8", 1, 1},
	F8E5M2:     {"F8_E5M2", 1, 1},
	F8E4M3:     {"F8_E4M3", 1, 1},
	F8E8M0:     {"F8_E8M0", 1, 1},
	F8E4M3FNUZ: {"F8_E4M3FNUZ", 1, 1},
	F8E5M2FNUZ: {"F8_E5M2FNUZ", 1, 1},
	I16:        {"I16", 1, 2},
	U16:        {"U16", 1, 2},
	F16:        {"F16", 1, 2},
	BF16:       {"BF16", 1, 2},
	I32:        {"I32", 1, 4},
	U32:        {"U32", 1, 4},
	F32:        {"F32", 1, 4},
	C64:        {"C64", 1, 8},
	F64:        {"F64", 1, 8},
	I64:        {"I64", 1, 8},
	U64:        {"U64", 1, 8},
	I4:         {"I4", 2, 1},
	U4:         {"U4", 2, 1},
	I2:         {"I2", 4, 1},
	U2:         {"U2", 4, 1},
	C128:       {"C128", 1, 16},
	Q1_0:       {"Q1_0", 128, 18},
	Q2_0:       {"Q2_0", 64, 18},
	Q4_0:       {"Q4_0", 32, 18},
	Q4_1:       {"Q4_1", 32, 20},
	Q5_0:       {"Q5_0", 32, 22},
	Q5_1:       {"Q5_1", 32, 24},
	Q8_0:       {"Q8_0", 32, 34},
	Q8_1:       {"Q8_1", 32, 36},
	Q2_K:       {"Q2_K", 256, 84},
	Q3_K:       {"Q3_K", 256, 110},
	Q4_K:       {"Q4_K", 256, 144},
	Q5_K:       {"Q5_K", 256, 176},
	Q6_K:       {"Q6_K", 256, 210},
	Q8_K:       {"Q8_K", 256, 292},
	IQ1_S:      {"IQ1_S", 256, 50},
	IQ1_M:      {"IQ1_M", 256, 56},
	IQ2_XXS:    {"IQ2_XXS", 256, 66},
	IQ2_XS:     {"IQ2_XS", 256, 74},
	IQ2_S:      {"IQ2_S", 256, 82},
	IQ3_XXS:    {"IQ3_XXS", 256, 98},
	IQ3_S:      {"IQ3_S", 256, 110},
	IQ4_NL:     {"IQ4_NL", 32, 18},
	IQ4_XS:     {"IQ4_XS", 256, 136},
	TQ1_0:      {"TQ1_0", 256, 54},
	TQ2_0:      {"TQ2_0", 256, 66},
	MXFP4:      {"MXFP4", 32, 17},
	NVFP4:      {"NVFP4", 64, 36},
}

// Parse returns the type with the given name, such as "BF16" or "Q4_K".
func Parse(name string) (Type, error) {
	for t, e := range table {
		if e.name == name && Type(t) != Invalid {
			return Type(t), nil
		}
	}
	return Invalid, fmt.Errorf("dtype: unknown element type %q", name)
}

// String returns the name: safetensors' for element types, ggml's in capitals
// for block types.
func (t Type) String() string {
	if int(t) < len(table) {
		return table[t].name
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// Block returns the smallest run of elements that is a whole number of bytes,
// and those bytes: 1 and the element's size for most types, 2 and 1 for F4,
// 32 and 34 for Q8_0; 0 and 0 for Invalid.
func (t Type) Block() (elements, bytes int64) {
	if int(t) < len(table) {
		return table[t].elements, table[t].bytes
	}
	return 0, 0
}

// Safetensors reports whether t is an element type that safetensors has.
func (t Type) Safetensors() bool { return t > Invalid && t <= U64 }

// Quantized reports whether t is one of ggml's block types, whose elements
// cannot be told apart by their bytes.
func (t Type) Quantized() bool { return t >= Q1_0 && int(t) < len(table) }

// Bits returns the width of one element in bits; 0 for Invalid and for block
// types, which have no such width.
func (t Type) Bits() int {
	elements, bytes := t.Block()
	if elements == 0 || t.Quantized() {
		return 0
	}
	return int(bytes * 8 / elements)
}

// Size returns the width of one element in bytes, or 0 where an element is
// not a whole number of bytes (F4, F6, I4) or has no width of its own.
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
// whole number of bytes or blocks, or does not fit an int64.
func (t Type) Bytes(n int64) (int64, error) {
	elements, bytes := t.Block()
	switch {
	case n < 0:
		return 0, fmt.Errorf("dtype: negative element count %d", n)
	case elements == 0:
		return 0, nil
	case n%elements != 0 && t.Quantized():
		return 0, fmt.Errorf("dtype: %d elements of %s are not whole blocks of %d", n, t, elements)
	case n%elements != 0:
		return 0, fmt.Errorf("dtype: %d elements of %s are not a whole number of bytes", n, t)
	}
	hi, lo := bits.Mul64(uint64(n/elements), uint64(bytes))
	if hi != 0 || lo > 1<<62 {
		return 0, fmt.Errorf("dtype: %d elements of %s overflow", n, t)
	}
	return int64(lo), nil
}

// PaddedBytes returns how many bytes n elements take where the last byte is
// filled up, as ONNX packs them. Otherwise it is Bytes.
func (t Type) PaddedBytes(n int64) (int64, error) {
	if elements, bytes := t.Block(); bytes == 1 && !t.Quantized() && n > 0 && n%elements != 0 {
		n += elements - n%elements // at most 3, and Bytes refuses what is near overflow
	}
	return t.Bytes(n)
}

// Elements returns the product of shape's dimensions, 1 for a scalar. It
// fails on a negative dimension, on a product over 2^62, and where it leaves 64
// bits on the way from the first dimension to the last, even where a later one
// is zero: 2^32 × 2^32 × 0 fails, (2^63-1) × 0 does not, as in safetensors.
func Elements(shape []int64) (int64, error) {
	n := uint64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("dtype: negative dimension %d in shape %v", d, shape)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 {
			return 0, overflows(shape)
		}
		n = lo
	}
	if n > 1<<62 {
		return 0, overflows(shape)
	}
	return int64(n), nil
}

func overflows(shape []int64) error {
	return fmt.Errorf("dtype: element count of shape %v overflows", shape)
}

// MarshalText writes the name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a name as Parse does.
func (t *Type) UnmarshalText(b []byte) (err error) {
	*t, err = Parse(string(b))
	return err
}
