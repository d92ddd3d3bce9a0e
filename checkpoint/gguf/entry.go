package gguf

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Entry is a key of the metadata with its value as it is written. Unlike a KV
// it holds all of an array.
type Entry struct {
	Key  string
	Type ValueType
	body []byte // what follows the type: of an Array its elements' type and number too
}

// Scalar is a Go type that stands for a type of metadata.
type Scalar interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | float32 | bool | string | uint64 | int64 | float64
}

// NewEntry returns a key with one value, of the type that T stands for.
func NewEntry[T Scalar](key string, value T) Entry {
	return Entry{Key: key, Type: typeOf[T](), body: appendScalar(nil, value)}
}

// NewArray returns a key with an array.
func NewArray[T Scalar](key string, values []T) Entry {
	body := binary.LittleEndian.AppendUint32(nil, uint32(typeOf[T]()))
	body = binary.LittleEndian.AppendUint64(body, uint64(len(values)))
	for _, v := range values {
		body = appendScalar(body, v)
	}
	return Entry{Key: key, Type: Array, body: body}
}

// typeOf returns the type of metadata that T stands for.
func typeOf[T Scalar]() ValueType {
	var zero T
	switch any(zero).(type) {
	case uint8:
		return Uint8
	case int8:
		return Int8
	case uint16:
		return Uint16
	case int16:
		return Int16
	case uint32:
		return Uint32
	case int32:
		return Int32
	case float32:
		return Float32
	case bool:
		return Bool
	case string:
		return String
	case uint64:
		return Uint64
	case int64:
		return Int64
	}
	return Float64
}

// appendScalar appends a value's bytes, little-endian.
func appendScalar[T Scalar](b []byte, value T) []byte {
	switch v := any(value).(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case uint16:
		return binary.LittleEndian.AppendUint16(b, v)
	case int16:
		return binary.LittleEndian.AppendUint16(b, uint16(v))
	case uint32:
		return binary.LittleEndian.AppendUint32(b, v)
	case int32:
		return binary.LittleEndian.AppendUint32(b, uint32(v))
	case float32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	case uint64:
		return binary.LittleEndian.AppendUint64(b, v)
	case int64:
		return binary.LittleEndian.AppendUint64(b, uint64(v))
	case float64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	case string:
		return appendString(b, v)
	}
	return b // no other type is a Scalar
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// append appends the key as the header has it.
func (e Entry) append(b []byte) []byte {
	b = appendString(b, e.Key)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Type))
	return append(b, e.body...)
}

// maxEntryBytes is the most that is read of a value to copy it: the tokens of a
// vocabulary of a million words take a tenth of it.
const maxEntryBytes = 256 << 20

// Entries reads the whole values of a file's metadata, to write them again as
// they are: of the keys that keep wants.
// Errors: Read's; unsupported for a value over 256 MiB.
func Entries(ctx context.Context, r source.Reader, keep func(key string) bool) ([]Entry, error) {
	type place struct{ offset, bytes int64 }
	var all []Entry
	var at []place
	p := parser{window: window{r: source.ReaderAt(ctx, r), size: r.File().Size}, h: &Header{}}
	p.said = func(kv KV, offset, bytes int64) {
		if keep(kv.Key) {
			all, at = append(all, Entry{Key: kv.Key, Type: kv.Value.Type}), append(at, place{offset, bytes})
		}
	}
	if _, err := p.metadata(); err != nil {
		return nil, header.InFile(err, r.File().Name)
	}
	for i := range all {
		if at[i].bytes > maxEntryBytes {
			return nil, &recovery.Error{Class: recovery.Unsupported, Op: "copy metadata", File: r.File().Name,
				Err: fmt.Errorf("%.80q has %d bytes, at most %d are copied", all[i].Key, at[i].bytes, maxEntryBytes)}
		}
		all[i].body = make([]byte, at[i].bytes)
		if err := r.ReadAt(ctx, all[i].body, at[i].offset); err != nil {
			return nil, err
		}
	}
	return all, nil
}
