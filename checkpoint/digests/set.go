package digests

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

const (
	// Name is the file's name, in the checkpoint's folder.
	Name = "gantry.digests.json"
	// BlockBytes is how long a file's blocks are, but for the last.
	BlockBytes = 4 << 20

	format   = "gantry.digests.v1"
	maxBytes = 512 << 20 // of the file: digests of some 4 TB
)

// Set is the digests of a checkpoint's files.
type Set struct {
	Format     string   `json:"format"`
	BlockBytes int64    `json:"block_bytes"`
	Files      []File   `json:"files"`
	Tensors    []Tensor `json:"tensors"` // by file, then offset

	tensors map[place]int // index into Tensors
}

// File is one file's digests.
type File struct {
	Name   string   `json:"name"`
	Size   int64    `json:"size"`
	Blocks []Sum128 `json:"xxh3_128"` // of each BlockBytes
	// What comes before the first tensor: the header.
	HeadBytes int64 `json:"head_bytes"`
	Head      Sum64 `json:"head_xxh3"`
}

// Tensor is one tensor's digests. It is known by where it lies: its name is
// for people.
type Tensor struct {
	Name   string     `json:"name"`
	File   string     `json:"file"`
	Offset int64      `json:"offset"` // in the file
	DType  dtype.Type `json:"dtype"`
	Units
	Sums []byte `json:"xxh3"` // of each unit, 8 bytes each, most significant first
}

// place is where a tensor lies.
type place struct {
	file   string
	offset int64
}

// Sum64 and Sum128 are digests, in hexadecimal digits as text.
type (
	Sum64  [8]byte
	Sum128 [16]byte
)

// MarshalText writes 16 hexadecimal digits.
func (s Sum64) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Sum64) UnmarshalText(text []byte) error { return decode(s[:], text) }

// MarshalText writes 32 hexadecimal digits.
func (s Sum128) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Sum128) UnmarshalText(text []byte) error { return decode(s[:], text) }

func decode(to, text []byte) error {
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("a digest has %d digits, not %d", hex.EncodedLen(len(to)), len(text))
	}
	_, err := hex.Decode(to, text)
	return err
}

// Parse reads a set and checks that its parts agree with each other.
func Parse(text []byte) (*Set, error) {
	var s Set
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, invalid("%w", err)
	}
	if s.Format != format || s.BlockBytes != BlockBytes {
		return nil, invalid("format %q with blocks of %d bytes: this version reads %s with %d", s.Format, s.BlockBytes, format, BlockBytes)
	}
	files := map[string]int64{}
	for _, f := range s.Files {
		if _, twice := files[f.Name]; twice || !source.ValidName(f.Name) {
			return nil, invalid("file %q is there twice or no file's name", f.Name)
		}
		if f.Size < 0 || int64(len(f.Blocks)) != blocks(f.Size) || f.HeadBytes < 0 || f.HeadBytes > f.Size {
			return nil, invalid("file %q: %d blocks and a head of %d bytes for %d bytes", f.Name, len(f.Blocks), f.HeadBytes, f.Size)
		}
		files[f.Name] = f.Size
	}
	for _, t := range s.Tensors {
		size, known := files[t.File]
		if t.DType == dtype.Invalid {
			return nil, invalid("tensor %q: no dtype", t.Name)
		}
		if !known || !t.valid() || t.Offset < 0 || t.Offset > size || t.Bytes > size-t.Offset || int64(len(t.Sums)) != 8*t.Count() {
			return nil, invalid("tensor %q: its place, units and %d bytes of digests do not agree", t.Name, len(t.Sums))
		}
	}
	return s.indexed(), nil
}

func blocks(size int64) int64 { return size/BlockBytes + min(size%BlockBytes, 1) }

func invalid(format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: Name, Err: fmt.Errorf(format, args...),
		Hint: "write it anew with gantry verify --write"}
}

// indexed makes Tensor work.
func (s *Set) indexed() *Set {
	s.tensors = make(map[place]int, len(s.Tensors))
	for i, t := range s.Tensors {
		s.tensors[place{t.File, t.Offset}] = i
	}
	return s
}

// File returns the digests of a file, nil where there are none.
func (s *Set) File(name string) *File {
	for i := range s.Files {
		if s.Files[i].Name == name {
			return &s.Files[i]
		}
	}
	return nil
}

// Tensor returns the digests of the tensor at an offset of a file, nil where
// there are none.
func (s *Set) Tensor(file string, offset int64) *Tensor {
	if i, ok := s.tensors[place{file, offset}]; ok {
		return &s.Tensors[i]
	}
	return nil
}

// Read reads the set beside a checkpoint; nil where there is none. A source
// that does not say what it has is taken to have none.
func Read(ctx context.Context, src source.Source) (*Set, error) {
	r, err := src.Open(ctx, Name)
	switch recovery.ClassOf(err) {
	case "":
	case recovery.NotFound, recovery.NotAllowed:
		return nil, nil
	default:
		return nil, err
	}
	size := r.File().Size
	if size > maxBytes {
		return nil, errors.Join(invalid("%d bytes, at most %d are allowed", size, maxBytes), r.Close())
	}
	text := make([]byte, size)
	if err := errors.Join(r.ReadAt(ctx, text, 0), r.Close()); err != nil {
		return nil, err
	}
	return Parse(text)
}
