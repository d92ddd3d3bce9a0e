package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ValueType is the type of a metadata value, by the format's numbers.
type ValueType uint8

// The types of metadata values.
const (
	Uint8 ValueType = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// valueTypes holds the types' names and, where values have one size, their
// bytes.
var valueTypes = [...]struct {
	name  string
	bytes uint64
}{
	Uint8: {"u8", 1}, Int8: {"i8", 1}, Uint16: {"u16", 2}, Int16: {"i16", 2}, Uint32: {"u32", 4}, Int32: {"i32", 4},
	Float32: {"f32", 4}, Bool: {"bool", 1}, String: {"string", 0}, Array: {"array", 0},
	Uint64: {"u64", 8}, Int64: {"i64", 8}, Float64: {"f64", 8},
}

// String returns the type's name, such as "u32".
func (t ValueType) String() string {
	if int(t) < len(valueTypes) {
		return valueTypes[t].name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// KV is one key of the metadata and its value.
type KV struct {
	Key   string
	Value Value
}

// Value is one value of the metadata. Of an array and of a text over a
// mebibyte only the type and the length are kept, and a summary.
type Value struct {
	Type ValueType
	Elem ValueType // of an Array's elements
	num  uint64    // the bits of a number or bool; length of an Array
	text string    // a String; a summary of an Array
}

// Len returns the number of an Array's elements, 0 for other types.
func (v Value) Len() uint64 {
	if v.Type == Array {
		return v.num
	}
	return 0
}

// Int returns an integer that is not negative and fits an int64.
func (v Value) Int() (int64, bool) {
	switch v.Type {
	case Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64:
		n := v.signed()
		return n, n >= 0
	}
	return 0, false
}

// signed returns an integer's bits with its sign; a Uint64 above 2^63-1 is
// negative.
func (v Value) signed() int64 {
	switch v.Type {
	case Int8:
		return int64(int8(v.num))
	case Int16:
		return int64(int16(v.num))
	case Int32:
		return int64(int32(v.num))
	}
	return int64(v.num)
}

// Float returns a floating-point number. A Float32 becomes the float64 with
// the same shortest decimal text: 1e-5, not 9.999999747378752e-06.
func (v Value) Float() (float64, bool) {
	switch v.Type {
	case Float32:
		f, err := strconv.ParseFloat(v.String(), 64)
		return f, err == nil
	case Float64:
		return math.Float64frombits(v.num), true
	}
	return 0, false
}

// Text returns a String's text, as UTF-8.
func (v Value) Text() (string, bool) { return v.String(), v.Type == String }

// String returns any value as text: strings as they are, made UTF-8 where
// they are not; arrays as a short list or, where they are long, as
// "[150000 × string]".
func (v Value) String() string {
	switch v.Type {
	case String, Array:
		return strings.ToValidUTF8(v.text, "\ufffd")
	case Bool:
		return strconv.FormatBool(byte(v.num) != 0)
	case Float32:
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(v.num))), 'g', -1, 32)
	case Float64:
		return strconv.FormatFloat(math.Float64frombits(v.num), 'g', -1, 64)
	case Uint64:
		return strconv.FormatUint(v.num, 10)
	}
	return strconv.FormatInt(v.signed(), 10)
}

// cost returns the bytes that the value's text takes until the Index has it.
// Summaries are written, and texts made UTF-8, in memory that grows.
func (v Value) cost() int {
	if v.Type == Array || !utf8.ValidString(v.text) {
		return 4 * len(v.text)
	}
	return len(v.text)
}

// Limits on what is kept of a value. Longer strings and arrays are skipped
// and summarised.
const (
	maxString     = 1 << 30 // bytes; libggml's
	maxKeptString = 1 << 20 // bytes
	maxKeptArray  = 16      // elements
	maxKeptText   = 64      // bytes of a string in an array
)

// valueType reads the number of a type.
func (w *window) valueType() (ValueType, error) {
	n, err := w.uint32()
	if err == nil && n >= uint32(len(valueTypes)) {
		err = w.failAt(w.off-4, "%d is no type of metadata", n)
	}
	return ValueType(n), err
}

// value reads a value of type t.
func (w *window) value(t ValueType) (Value, error) {
	switch t {
	case String:
		n, err := w.length()
		if err != nil {
			return Value{}, err
		}
		if n > maxKeptString {
			return Value{Type: t, text: fmt.Sprintf("(%d bytes of text)", n)}, w.skip(uint64(n))
		}
		s, err := w.bytes(n)
		return Value{Type: t, text: s}, err
	case Array:
		return w.array()
	}
	b, err := w.take(int(valueTypes[t].bytes))
	var bits [8]byte
	copy(bits[:], b)
	return Value{Type: t, num: binary.LittleEndian.Uint64(bits[:])}, err
}

// array reads an array. Arrays of arrays are refused, as libggml does.
func (w *window) array() (Value, error) {
	elem, err := w.valueType()
	if err != nil {
		return Value{}, err
	}
	if elem == Array {
		return Value{}, w.failAt(w.off-4, "an array of arrays")
	}
	n, err := w.uint64()
	if err != nil {
		return Value{}, err
	}
	each := max(valueTypes[elem].bytes, 1)
	if elem == String {
		each = 8
	}
	if n > uint64(w.left())/each {
		return Value{}, w.failAt(w.off-8, "an array of %d × %s is claimed, but the file ends after %d bytes", n, elem, w.left())
	}
	v := Value{Type: Array, Elem: elem, num: n}
	if n <= maxKeptArray {
		v.text, err = w.list(elem, n)
		return v, err
	}
	v.text = fmt.Sprintf("[%d × %s]", n, elem)
	if elem == String {
		return v, w.skipStrings(n)
	}
	return v, w.skip(n * each)
}

// list reads n elements and writes them like "[1, 2]" or `["a", "b"]`.
func (w *window) list(elem ValueType, n uint64) (string, error) {
	var s strings.Builder
	s.WriteByte('[')
	for i := range n {
		if i > 0 {
			s.WriteString(", ")
		}
		v, err := w.value(elem)
		if err != nil {
			return "", err
		}
		switch text := v.String(); {
		case elem != String:
			s.WriteString(text)
		case len(text) > maxKeptText:
			fmt.Fprintf(&s, "%q…", strings.ToValidUTF8(text[:maxKeptText], ""))
		default:
			fmt.Fprintf(&s, "%q", text)
		}
	}
	s.WriteByte(']')
	return s.String(), nil
}
