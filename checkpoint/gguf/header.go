package gguf

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Limits on what a file may claim. Those on dimensions and names are
// libggml's; the others are ours, far above any real file, and bound memory.
const (
	MaxTensors    = 1 << 18 // in one file
	MaxKeys       = 1 << 16
	MaxDimensions = 4
	MaxNameBytes  = 63
)

// AlignmentKey is the key of the alignment of tensors, a u32.
const AlignmentKey = "general.alignment"

// DefaultAlignment is that of files without AlignmentKey, in bytes.
const DefaultAlignment = 32

// Tensor is one tensor of a file, with the slowest dimension first, the reverse
// of what the file says, and without the padding behind it. It says nothing of
// Transposed, File and Form.
type Tensor = header.Tensor

// Header is what a file says about itself, checked.
type Header struct {
	Version   uint32
	Metadata  []KV     // in the file's order; no key twice
	Tensors   []Tensor // by offset; no name twice
	Alignment int64    // bytes
	Start     int64    // offset of the first tensor byte
}

// Find returns the value of a key.
func (h *Header) Find(key string) (Value, bool) {
	for i := range h.Metadata {
		if h.Metadata[i].Key == key {
			return h.Metadata[i].Value, true
		}
	}
	return Value{}, false
}

// Read reads and checks the header of an open file.
// Errors: invalid_checkpoint, unsupported (other versions, over our limits),
// and the source's.
func Read(ctx context.Context, r source.Reader) (*Header, error) {
	h, err := Parse(source.ReaderAt(ctx, r), r.File().Size)
	return h, header.InFile(err, r.File().Name)
}

// Parse reads and checks the header of a file of the given size in bytes.
// Errors: invalid_checkpoint, unsupported, and those of r.
func Parse(r io.ReaderAt, size int64) (*Header, error) {
	p := parser{window: window{r: r, size: size}, h: &Header{}}
	tensors, err := p.metadata()
	if err != nil {
		return nil, err
	}
	if err := p.alignment(); err != nil {
		return nil, err
	}
	for range tensors {
		if err := p.tensor(); err != nil {
			return nil, err
		}
	}
	p.h.Tensors = p.tensors.Tensors()
	if name, ok := header.Twice(p.h.Tensors); ok {
		return nil, header.BadTensor(name, "it is there twice")
	}
	if err := p.layout(); err != nil {
		return nil, err
	}
	return p.h, nil
}

// room makes room for one more of n claimed elements. It doubles what there
// is, up to n exactly, so that only what has been read costs memory.
func room[T any](s []T, n uint64) []T {
	if len(s) < cap(s) {
		return s
	}
	return slices.Grow(s, int(min(uint64(max(len(s), 64)), n-uint64(len(s)))))
}

type parser struct {
	window
	h       *Header
	budget  header.Budget
	tensors header.List
	dims    []int64 // backs the shapes
	// said hears of each key where its value lies in the file, behind its
	// type; nil hears nothing.
	said func(kv KV, offset, bytes int64)
}

// metadata reads up to the first tensor and returns the tensors' number.
func (p *parser) metadata() (tensors uint64, err error) {
	keys, tensors, err := p.counts()
	if err != nil {
		return 0, err
	}
	for range keys {
		p.h.Metadata = room(p.h.Metadata, keys)
		if err := p.key(); err != nil {
			return 0, err
		}
	}
	return tensors, p.uniqueKeys()
}

// Bytes that a key and a tensor take at the least.
const (
	minKeyBytes    = 8 + 1 + 4 + 1
	minTensorBytes = 8 + 4 + 4 + 8
)

// counts reads what stands before the first key.
func (p *parser) counts() (keys, tensors uint64, err error) {
	magic, err := p.take(4)
	if err != nil {
		return 0, 0, err
	}
	if string(magic) != "GGUF" {
		return 0, 0, p.failAt(0, "it begins with %q, not with \"GGUF\": no GGUF file", magic)
	}
	if p.h.Version, err = p.uint32(); err != nil {
		return 0, 0, err
	}
	switch v := p.h.Version; {
	case v == 2 || v == 3:
	case v == 0:
		return 0, 0, p.failAt(4, "version 0 of GGUF: there is none")
	case v&0xffff == 0:
		return 0, 0, recovery.Errorf(recovery.Unsupported, "a big-endian GGUF file (version %#x read as little-endian)", v)
	default:
		return 0, 0, recovery.Errorf(recovery.Unsupported, "version %d of GGUF, versions 2 and 3 are supported", v)
	}
	if tensors, err = p.uint64(); err != nil {
		return 0, 0, err
	}
	if keys, err = p.uint64(); err != nil {
		return 0, 0, err
	}
	left := uint64(p.left())
	switch {
	case keys > left/minKeyBytes || tensors > (left-keys*minKeyBytes)/minTensorBytes:
		return 0, 0, p.failAt(8, "%d keys and %d tensors are claimed, but the file has %d bytes: truncated, or no GGUF file", keys, tensors, p.size)
	case keys > MaxKeys || tensors > MaxTensors:
		return 0, 0, recovery.Errorf(recovery.Unsupported, "%d keys and %d tensors in one file, at most %d and %d are supported", keys, tensors, MaxKeys, MaxTensors)
	}
	return keys, tensors, nil
}

// key reads one key and its value.
func (p *parser) key() error {
	n, err := p.length()
	switch {
	case err != nil:
		return err
	case n == 0:
		return p.failAt(p.off-8, "an empty key")
	case n > maxKeptString:
		return recovery.Errorf(recovery.Unsupported, "a key of %d bytes, at most %d are supported", n, maxKeptString)
	}
	key, err := p.bytes(n)
	if err != nil {
		return err
	}
	t, err := p.valueType()
	if err != nil {
		return err
	}
	at := p.off
	v, err := p.value(t)
	if err != nil {
		return err
	}
	p.h.Metadata = append(p.h.Metadata, KV{key, v})
	if p.said != nil {
		p.said(KV{key, v}, at, p.off-at)
	}
	p.budget.Read(p.off)
	return cmp.Or(p.budget.Entry(), p.budget.Text(len(key)), p.budget.Text(v.cost()))
}

// alignment looks up the alignment of the tensors.
func (p *parser) alignment() error {
	p.h.Alignment = DefaultAlignment
	v, ok := p.h.Find(AlignmentKey)
	if !ok {
		return nil
	}
	if v.Type != Uint32 {
		return recovery.Errorf(recovery.InvalidCheckpoint, "%s is a value of type %s, not u32", AlignmentKey, v.Type)
	}
	p.h.Alignment = int64(v.num)
	if a := p.h.Alignment; a == 0 || a&(a-1) != 0 {
		return recovery.Errorf(recovery.InvalidCheckpoint, "%s is %d, not a power of two", AlignmentKey, a)
	}
	return nil
}

// tensor reads the description of a tensor. Its offset is still relative to
// the first tensor's.
func (p *parser) tensor() error {
	at := p.off
	n, err := p.length()
	if err != nil {
		return err
	}
	if n > MaxNameBytes {
		return p.failAt(at, "a tensor's name of %d bytes, at most %d are allowed", n, MaxNameBytes)
	}
	name, err := p.bytes(n)
	if err != nil {
		return err
	}
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return p.failAt(at, "%q, a tensor's name, is not UTF-8 text", name)
	}
	t := Tensor{Name: name}
	if t.Shape, err = p.shape(name); err != nil {
		return err
	}
	number, err := p.uint32()
	if err != nil {
		return err
	}
	if number >= uint32(len(types)) || types[number] == dtype.Invalid {
		return header.BadTensor(name, "%d is no type of ggml's", number)
	}
	t.DType = types[number]
	if t.Bytes, err = byteSize(t.DType, t.Shape); err != nil {
		return header.BadTensor(name, "%w", err)
	}
	offset, err := p.uint64()
	if err != nil {
		return err
	}
	if offset > uint64(p.size) {
		return header.BadTensor(name, "its offset %d is behind the end of the file, which has %d bytes", offset, p.size)
	}
	t.Offset = int64(offset)
	p.budget.Read(p.off)
	return cmp.Or(p.tensors.Add(&p.budget, t), p.budget.Text(len(name)), p.budget.Shape(len(t.Shape)))
}

// shape reads the dimensions of a tensor.
func (p *parser) shape(name string) ([]int64, error) {
	n, err := p.uint32()
	if err != nil {
		return nil, err
	}
	if n > MaxDimensions {
		return nil, header.BadTensor(name, "%d dimensions, at most %d are allowed", n, MaxDimensions)
	}
	if len(p.dims) < MaxDimensions {
		p.dims = make([]int64, 256*MaxDimensions)
	}
	shape := p.dims[:n:n]
	p.dims = p.dims[n:]
	for i := range shape {
		d, err := p.uint64()
		if err != nil {
			return nil, err
		}
		if int64(d) < 0 {
			return nil, header.BadTensor(name, "dimension %d has %d elements", i, d)
		}
		shape[i] = int64(d)
	}
	slices.Reverse(shape)
	return shape, nil
}

// byteSize returns the bytes of a tensor. Rows are whole blocks.
func byteSize(t dtype.Type, shape []int64) (int64, error) {
	n, err := dtype.Elements(shape)
	if err != nil {
		return 0, err
	}
	row := int64(1)
	if len(shape) > 0 {
		row = shape[len(shape)-1]
	}
	_, rowErr := t.Bytes(row)
	size, err := t.Bytes(n)
	return size, cmp.Or(rowErr, err)
}

// layout checks that the tensors follow each other, padded, and that the file
// holds them.
func (p *parser) layout() error {
	p.h.Start = p.off
	if len(p.h.Tensors) == 0 {
		return nil
	}
	align := uint64(p.h.Alignment)
	pad := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	if pad(uint64(p.off)) > uint64(p.size) {
		return p.fail("the header should be padded to %d bytes here, but the file ends after %d: truncated", align, p.left())
	}
	p.h.Start = int64(pad(uint64(p.off)))
	at, room := uint64(0), uint64(p.size-p.h.Start)
	for i := range p.h.Tensors {
		t := &p.h.Tensors[i]
		if uint64(t.Offset) != at {
			return header.BadTensor(t.Name, "its offset is %d, it should be %d: tensors must follow each other without overlap or hole", t.Offset, at)
		}
		if at += pad(uint64(t.Bytes)); at > room {
			return header.BadTensor(t.Name, "it ends, padded, %d bytes behind the end of the file, which has %d: truncated", at-room, p.size)
		}
		t.Offset += p.h.Start
	}
	return nil
}

// uniqueKeys refuses a key that is there twice.
func (p *parser) uniqueKeys() error {
	keys := make([]string, len(p.h.Metadata))
	for i, kv := range p.h.Metadata {
		keys[i] = kv.Key
	}
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return recovery.Errorf(recovery.InvalidCheckpoint, "the key %.80q is there twice", keys[i])
		}
	}
	return nil
}
