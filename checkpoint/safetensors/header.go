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

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Limits on what a file may claim. The first is the reference's; the others
// are ours, far above any real checkpoint, and bound memory to about four
// times the header.
const (
	MaxHeaderBytes = 100_000_000
	MaxTensors     = 1 << 18 // in one file
	MaxIndexed     = 1 << 19 // in all files of an index
	MaxMetadata    = 1 << 16 // keys
	MaxDimensions  = 64      // of one tensor
)

// prefixBytes is the size of the number before the header.
const prefixBytes = 8

// metadataKey is the one name that is no tensor's.
const metadataKey = "__metadata__"

// Tensor is one tensor of a file. Its bytes are row-major and little-endian.
type Tensor struct {
	Name  string
	DType dtype.Type
	// Shape's product overflows nothing. A dimension above 2^63-1, which only
	// a tensor without elements can have, is held as 2^63-1.
	Shape  []int64
	Offset int64 // absolute, in the file
	Bytes  int64
}

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
	header := make([]byte, n)
	if err := r.ReadAt(ctx, header, prefixBytes); err != nil {
		return nil, err
	}
	h, err := Parse(header, size)
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
// size of the whole file in bytes.
// Errors: invalid_checkpoint, unsupported (over our limits).
func Parse(header []byte, fileSize int64) (*Header, error) {
	if len(header) > MaxHeaderBytes || int64(len(header)) > fileSize-prefixBytes {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "a header of %d bytes does not fit a file of %d", len(header), fileSize)
	}
	if !utf8.Valid(header) {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the header is not valid UTF-8")
	}
	p := parser{scanner: scanner{b: header, base: prefixBytes}}
	// One allocation for all tensors: each has two brackets and, at the
	// shortest, 24 bytes.
	p.entries = make([]entry, 0, min(bytes.Count(header, []byte{'['})/2, len(header)/24, MaxTensors))
	if err := p.file(); err != nil {
		return nil, err
	}
	return layout(p.latest(), p.metadata, prefixBytes+int64(len(header)), fileSize)
}

// layout checks that the entries tile the file from start to its end.
func layout(entries []entry, metadata map[string]string, start, fileSize int64) (*Header, error) {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), strings.Compare(a.name, b.name))
	})
	h := &Header{Tensors: make([]Tensor, len(entries)), Metadata: metadata, Start: start}
	dims := 0
	for i := range entries {
		dims += len(entries[i].shape)
	}
	shapes := make([]int64, 0, dims) // backs all shapes
	at := uint64(0)
	for i := range entries {
		e := &entries[i]
		bad := func(format string, args ...any) (*Header, error) {
			err := recovery.Errorf(recovery.InvalidCheckpoint, format, args...)
			err.Tensor = e.name
			return nil, err
		}
		if e.begin != at || e.end < e.begin {
			return bad("its data_offsets [%d, %d) should begin at %d: tensors must follow each other without overlap or hole", e.begin, e.end, at)
		}
		size, err := byteSize(e.dtype, e.shape)
		if err != nil {
			return bad("%w", err)
		}
		if e.end-e.begin != size {
			return bad("its data_offsets [%d, %d) hold %d bytes, its type and shape need %d", e.begin, e.end, e.end-e.begin, size)
		}
		if e.end > uint64(fileSize-start) {
			return bad("it ends %d bytes behind the end of the file, which has %d: truncated", e.end-uint64(fileSize-start), fileSize)
		}
		first := len(shapes)
		for _, d := range e.shape {
			shapes = append(shapes, int64(min(d, math.MaxInt64)))
		}
		h.Tensors[i] = Tensor{Name: e.name, DType: e.dtype, Shape: shapes[first:len(shapes):len(shapes)], Offset: start + int64(e.begin), Bytes: int64(size)}
		at = e.end
	}
	if rest := uint64(fileSize-start) - at; rest != 0 {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "%d bytes at the end of the file belong to no tensor", rest)
	}
	return h, nil
}

// byteSize multiplies as the reference does, from the first dimension to the
// last and without leaving 64 bits: 2^32 × 2^32 × 0 overflows, 0 × 2^32 ×
// 2^32 does not.
func byteSize(t dtype.Type, shape []uint64) (uint64, error) {
	n, over := uint64(1), uint64(0)
	for _, d := range shape {
		if over, n = bits.Mul64(n, d); over != 0 {
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
