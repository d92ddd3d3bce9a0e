package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// version is that of the files that are written.
const version = 3

// Layout decides where tensors lie in a file, one after the other in the order
// given. It sets Offset and Bytes of each in a copy and returns it with the
// first bytes of the file, the header padded to the alignment, and the file's
// size. Only Name, DType and Shape of the argument count. The alignment is what
// metadata says, or DefaultAlignment.
//
// Errors, of class usage: what the format or libggml has no place for: a key or
// a name that is there twice, is no UTF-8 text or too long; more than four
// dimensions; a type that ggml does not have; rows that are not whole blocks.
func Layout(tensors []Tensor, metadata []Entry) (placed []Tensor, head []byte, size int64, err error) {
	align, err := checkEntries(metadata)
	if err != nil {
		return nil, nil, 0, err
	}
	if len(tensors) > MaxTensors {
		return nil, nil, 0, recovery.Errorf(recovery.Usage, "gguf: %d tensors in one file, at most %d are allowed", len(tensors), MaxTensors)
	}
	placed = slices.Clone(tensors)
	numbers := make([]uint32, len(placed))
	seen := make(map[string]bool, len(placed))
	for i := range placed {
		t := &placed[i]
		if numbers[i], err = checkTensor(t); err == nil && seen[t.Name] {
			err = errors.New("it is there twice")
		}
		if err == nil && t.Bytes > 1<<62-align-size {
			err = errors.New("the file would be too large")
		}
		if err != nil {
			return nil, nil, 0, &recovery.Error{Class: recovery.Usage, Op: "gguf", Tensor: t.Name, Err: err}
		}
		seen[t.Name] = true
		t.Offset = size
		size = padded(size+t.Bytes, align)
	}
	head = encodeHeader(placed, numbers, metadata)
	if len(placed) > 0 {
		head = append(head, make([]byte, padded(int64(len(head)), align)-int64(len(head)))...)
	}
	for i := range placed {
		placed[i].Offset += int64(len(head))
	}
	return placed, head, size + int64(len(head)), nil
}

// padded returns the next multiple of align, a power of two.
func padded(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }

// checkEntries refuses metadata that no reader would take, and returns the
// alignment.
func checkEntries(metadata []Entry) (align int64, err error) {
	align = DefaultAlignment
	seen := make(map[string]bool, len(metadata))
	for _, e := range metadata {
		switch {
		case e.Key == "" || len(e.Key) > maxKeptString || !utf8.ValidString(e.Key) || seen[e.Key]:
			return 0, recovery.Errorf(recovery.Usage, "gguf: the key %.80q is empty, there twice, too long or not UTF-8", e.Key)
		case e.Key == AlignmentKey:
			if e.Type != Uint32 {
				return 0, recovery.Errorf(recovery.Usage, "gguf: %s is of type %s, not u32", e.Key, e.Type)
			}
			align = int64(binary.LittleEndian.Uint32(e.body))
			if align == 0 || align&(align-1) != 0 {
				return 0, recovery.Errorf(recovery.Usage, "gguf: %s is %d, not a power of two", e.Key, align)
			}
		}
		seen[e.Key] = true
	}
	if len(metadata) > MaxKeys {
		return 0, recovery.Errorf(recovery.Usage, "gguf: %d keys in one file, at most %d are allowed", len(metadata), MaxKeys)
	}
	return align, nil
}

// checkTensor sets a tensor's bytes and returns ggml's number of its type.
func checkTensor(t *Tensor) (number uint32, err error) {
	number, ok := Number(t.DType)
	switch {
	case !ok:
		return 0, fmt.Errorf("ggml has no type %s", t.DType)
	case t.Name == "" || len(t.Name) > MaxNameBytes:
		return 0, fmt.Errorf("a name of %d bytes, 1 to %d are allowed", len(t.Name), MaxNameBytes)
	case !utf8.ValidString(t.Name) || strings.ContainsRune(t.Name, 0):
		return 0, errors.New("its name is not UTF-8 text")
	case len(t.Shape) > MaxDimensions:
		return 0, fmt.Errorf("%d dimensions, at most %d are allowed", len(t.Shape), MaxDimensions)
	}
	t.Bytes, err = byteSize(t.DType, t.Shape)
	return number, err
}

// Number returns ggml's number of a type, if it has it.
func Number(t dtype.Type) (uint32, bool) {
	i := slices.Index(types[:], t)
	return uint32(i), i >= 0 && t != dtype.Invalid
}

// encodeHeader writes the header of tensors whose offsets count from the
// first's.
func encodeHeader(tensors []Tensor, numbers []uint32, metadata []Entry) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("GGUF"), version)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(metadata)))
	for _, e := range metadata {
		b = e.append(b)
	}
	for i, t := range tensors {
		b = appendString(b, t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Shape)))
		for _, d := range slices.Backward(t.Shape) {
			b = binary.LittleEndian.AppendUint64(b, uint64(d))
		}
		b = binary.LittleEndian.AppendUint32(b, numbers[i])
		b = binary.LittleEndian.AppendUint64(b, uint64(t.Offset))
	}
	return b
}

// Writer writes one file, which appears under its name whole or not at all.
type Writer = outfile.Tensors

// Create lays out a file and writes its header. The file has its whole size at
// once; bytes that are never written, the padding among them, are zero.
func Create(path string, tensors []Tensor, metadata []Entry) (*Writer, error) {
	placed, head, size, err := Layout(tensors, metadata)
	if err != nil {
		return nil, err
	}
	return outfile.CreateTensors(path, placed, head, size)
}
