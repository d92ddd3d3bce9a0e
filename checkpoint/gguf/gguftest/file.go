// Package gguftest writes small GGUF files, right or wrong, for tests.
package gguftest

import (
	"encoding/binary"
	"fmt"
)

// File is what a file should say. Keys and Tensors come from KV and Tensor.
type File struct {
	Version uint32 // 0 is 3
	Keys    [][]byte
	Tensors [][]byte
	Align   int    // of what follows the header; 0 is 32
	Data    []byte // the tensors' bytes with their padding
}

// Bytes returns the file.
func (f File) Bytes() []byte {
	version, align := f.Version, f.Align
	if version == 0 {
		version = 3
	}
	if align == 0 {
		align = 32
	}
	b := binary.LittleEndian.AppendUint32([]byte("GGUF"), version)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Keys)))
	for _, k := range f.Keys {
		b = append(b, k...)
	}
	for _, t := range f.Tensors {
		b = append(b, t...)
	}
	for len(f.Tensors) > 0 && len(b)%align != 0 {
		b = append(b, 0)
	}
	return append(b, f.Data...)
}

// KV returns a key with a value, whose Go type decides the type: a number, a
// bool, a string, or a slice of one of them.
func KV(key string, value any) []byte {
	t, v := encode(value)
	b := binary.LittleEndian.AppendUint32(text(key), t)
	return append(b, v...)
}

// Raw returns a key with a type and the bytes that follow it.
func Raw(key string, t uint32, value []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(text(key), t), value...)
}

// Tensor returns the description of a tensor: ggml's number of its type, its
// offset behind the header, and its dimensions, the fastest first.
func Tensor(name string, ggmlType uint32, offset uint64, dims ...uint64) []byte {
	b := binary.LittleEndian.AppendUint32(text(name), uint32(len(dims)))
	for _, d := range dims {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	b = binary.LittleEndian.AppendUint32(b, ggmlType)
	return binary.LittleEndian.AppendUint64(b, offset)
}

func text(s string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)
}

func encode(value any) (t uint32, b []byte) {
	switch v := value.(type) {
	case string:
		return 8, text(v)
	case []string:
		return array(v)
	case []uint8:
		return array(v)
	case []int32:
		return array(v)
	case []float32:
		return array(v)
	case []bool:
		return array(v)
	case uint8:
		t = 0
	case int8:
		t = 1
	case uint16:
		t = 2
	case int16:
		t = 3
	case uint32:
		t = 4
	case int32:
		t = 5
	case float32:
		t = 6
	case bool:
		t = 7
	case uint64:
		t = 10
	case int64:
		t = 11
	case float64:
		t = 12
	default:
		panic(fmt.Sprintf("gguftest: no type for %T", value))
	}
	b, err := binary.Append(nil, binary.LittleEndian, value)
	if err != nil {
		panic(err) // every type above has a fixed size
	}
	return t, b
}

func array[T any](values []T) (uint32, []byte) {
	var zero T
	elem, _ := encode(zero)
	b := binary.LittleEndian.AppendUint32(nil, elem)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(values)))
	for _, v := range values {
		_, e := encode(v)
		b = append(b, e...)
	}
	return 9, b
}
