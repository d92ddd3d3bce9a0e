package safetensors

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Limits on what a file may claim. The first is the reference's; the others
// are ours and far above any real checkpoint. A header.Budget holds what a
// header costs to its size.
const (
	MaxHeaderBytes = 100_000_000
	MaxTensors     = 1 << 18 // in one file
	MaxIndexed     = 1 << 19 // in all files of an index
	MaxShards      = 1 << 12 // of an index
	MaxMetadata    = 1 << 16 // keys
	MaxDimensions  = 64      // of one tensor
)

// prefixBytes is the size of the number before the header.
const prefixBytes = 8

// metadataKey is the one name that is no tensor's.
const metadataKey = "__metadata__"

// Tensor is one tensor of a file, which says nothing of Transposed, File and
// Form.
type Tensor = header.Tensor

// Header is what a file says about itself, checked.
type Header struct {
	Tensors  []Tensor // by offset, then name
	Metadata map[string]string
	Start    int64 // offset of the first tensor byte
}

// Read reads and checks the header of an open file.
// Errors: invalid_checkpoint, unsupported (over our limits), and the source's.
func Read(ctx context.Context, r source.Reader) (*Header, error) {
	size := r.File().Size
	if size < prefixBytes {
		return nil, within(r, recovery.Errorf(recovery.InvalidCheckpoint, "%d bytes are too few for a safetensors file: it is truncated", size))
	}
	var prefix [prefixBytes]byte
	if err := r.ReadAt(ctx, prefix[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	switch {
	case n > MaxHeaderBytes:
		return nil, within(r, recovery.Errorf(recovery.InvalidCheckpoint, "a header of %d bytes is claimed, at most %d are allowed: no safetensors file, or a corrupt one", n, MaxHeaderBytes))
	case int64(n) > size-prefixBytes:
		return nil, within(r, recovery.Errorf(recovery.InvalidCheckpoint, "a header of %d bytes is claimed, but the file has only %d: it is truncated or no safetensors file", n, size))
	}
	text := make([]byte, n)
	if err := r.ReadAt(ctx, text, prefixBytes); err != nil {
		return nil, err
	}
	h, err := Parse(text, size)
	if err != nil {
		return nil, within(r, err)
	}
	return h, nil
}

// within adds the file's name to an error of this package.
func within(r source.Reader, err error) error {
	var e *recovery.Error
	if errors.As(err, &e) {
		e.Op, e.File = "open", r.File().Name
	}
	return err
}

// Parse checks a header, the JSON without the number before it, against the
// size of the whole file in bytes. Its bytes are Parse's: escapes are decoded
// in place.
// Errors: invalid_checkpoint, unsupported (over our limits).
func Parse(text []byte, fileSize int64) (*Header, error) {
	if len(text) > MaxHeaderBytes || int64(len(text)) > fileSize-prefixBytes {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "a header of %d bytes does not fit a file of %d", len(text), fileSize)
	}
	if !utf8.Valid(text) {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the header is not valid UTF-8")
	}
	p := parser{scanner: scanner{b: text, base: prefixBytes}}
	p.budget.Read(int64(len(text)))
	// One allocation for all tensors: each has two brackets or more.
	room, err := p.budget.Room(min(bytes.Count(text, []byte{'['})/2, MaxTensors))
	if err != nil {
		return nil, err
	}
	p.tensors = make([]Tensor, 0, room)
	if err := p.file(); err != nil {
		return nil, err
	}
	h := &Header{Tensors: p.latest(), Metadata: p.metadata, Start: prefixBytes + int64(len(text))}
	return h, h.layout(fileSize)
}

// layout checks that the tensors tile the file from the header's end to its
// own, and finishes them: the parser has left the end of each in Bytes, offsets
// count from the header's end, and dimensions are unsigned.
func (h *Header) layout(fileSize int64) error {
	slices.SortFunc(h.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Bytes, b.Bytes), strings.Compare(a.Name, b.Name))
	})
	at, room := int64(0), fileSize-h.Start
	for i := range h.Tensors {
		t := &h.Tensors[i]
		begin, end := t.Offset, t.Bytes
		if begin != at || end < begin {
			return header.BadTensor(t.Name, "its data_offsets [%d, %d) should begin at %d: tensors must follow each other without overlap or hole", begin, end, at)
		}
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return header.BadTensor(t.Name, "%w", err)
		}
		if uint64(end-begin) != size {
			return header.BadTensor(t.Name, "its data_offsets [%d, %d) hold %d bytes, its type and shape need %d", begin, end, end-begin, size)
		}
		if end > room {
			return header.BadTensor(t.Name, "it ends %d bytes behind the end of the file, which has %d: truncated", end-room, fileSize)
		}
		t.Offset, t.Bytes, at = h.Start+begin, end-begin, end
		for i, d := range t.Shape {
			t.Shape[i] = int64(min(uint64(d), math.MaxInt64))
		}
	}
	if rest := room - at; rest != 0 {
		return recovery.Errorf(recovery.InvalidCheckpoint, "%d bytes at the end of the file belong to no tensor", rest)
	}
	return nil
}

// byteSize multiplies as the reference does, from the first dimension to the
// last and without leaving 64 bits: 2^32 × 2^32 × 0 overflows, 0 × 2^32 ×
// 2^32 does not.
func byteSize(t dtype.Type, shape []int64) (uint64, error) {
	n, over := uint64(1), uint64(0)
	for _, d := range shape {
		if over, n = bits.Mul64(n, uint64(d)); over != 0 {
			return 0, errOverflow
		}
	}
	if over, n = bits.Mul64(n, uint64(t.Bits())); over != 0 {
		return 0, errOverflow
	}
	if n%8 != 0 {
		return 0, errBits
	}
	return n / 8, nil
}

var (
	errOverflow = errors.New("the size of its shape overflows 64 bits")
	errBits     = errors.New("its elements are not a whole number of bytes")
)
