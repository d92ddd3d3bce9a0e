package digests

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/source"
)

// slab is how much is read at once.
const slab = 1 << 20

// Visit is told of bytes as they are read: those of one tensor from off of it
// on, or of none (nil) from off of the file on.
type Visit func(t *checkpoint.Tensor, off int64, p []byte)

// Scan reads one file of an index once, from end to end, and returns what its
// digests are. visit, if set, sees every byte; so does each of also.
func Scan(ctx context.Context, src source.Source, ix *checkpoint.Index, file int, visit Visit, also ...io.Writer) (f File, ts []Tensor, err error) {
	r, err := src.Open(ctx, ix.Files[file].Name)
	if err != nil {
		return File{}, nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s := newScan(ix, file, r.File(), visit)
	stream, err := source.Stream(ctx, r, 0, s.file.Size)
	if err != nil {
		return File{}, nil, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	buf := make([]byte, slab)
	for at := int64(0); at < s.file.Size; {
		p := buf[:min(slab, s.file.Size-at)]
		if _, err := io.ReadFull(stream, p); err != nil {
			return File{}, nil, err
		}
		for _, w := range also {
			if _, err := w.Write(p); err != nil {
				return File{}, nil, err
			}
		}
		s.write(p)
		at += int64(len(p))
	}
	return s.file, s.sums, nil
}

// scan is the state of reading a file in order.
type scan struct {
	file    File
	tensors []*checkpoint.Tensor // by offset
	sums    []Tensor             // of each
	visit   Visit

	at    int64 // in the file
	block *xxh3.Hasher
	head  *xxh3.Hasher
	next  int // the tensor at hand, or the next one
	unit  *xxh3.Hasher
}

func newScan(ix *checkpoint.Index, file int, f source.File, visit Visit) *scan {
	s := &scan{file: File{Name: f.Name, Size: f.Size, Blocks: []Sum128{}}, visit: visit, block: xxh3.New(), head: xxh3.New(), unit: xxh3.New()}
	if visit == nil {
		s.visit = func(*checkpoint.Tensor, int64, []byte) {}
	}
	for i := range ix.Tensors {
		if t := &ix.Tensors[i]; int(t.File) == file && t.Bytes > 0 {
			s.tensors = append(s.tensors, t)
		}
	}
	slices.SortStableFunc(s.tensors, func(a, b *checkpoint.Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	s.file.HeadBytes = f.Size
	// Tensors that share bytes with one before have no digests of their own.
	end := int64(0)
	s.tensors = slices.DeleteFunc(s.tensors, func(t *checkpoint.Tensor) bool {
		shares := t.Offset < end
		end = max(end, t.Offset+t.Bytes)
		return shares
	})
	for i, t := range s.tensors {
		if i == 0 {
			s.file.HeadBytes = t.Offset
		}
		u := UnitsOf(t.Shape, t.Bytes)
		s.sums = append(s.sums, Tensor{Name: t.Name, File: f.Name, Offset: t.Offset, DType: t.DType, Units: u, Sums: make([]byte, 0, 8*u.Count())})
	}
	s.endHead()
	return s
}

// write goes on with p.
func (s *scan) write(p []byte) {
	for rest := p; len(rest) > 0; {
		n := min(int64(len(rest)), BlockBytes-s.at%BlockBytes)
		s.block.Write(rest[:n])
		s.parts(rest[:n])
		rest = rest[n:]
		if s.at%BlockBytes == 0 || s.at == s.file.Size {
			s.file.Blocks = append(s.file.Blocks, s.block.Sum128().Bytes())
			s.block.Reset()
		}
	}
}

// parts divides p between tensors and what lies between them.
func (s *scan) parts(p []byte) {
	for len(p) > 0 {
		stop, t := s.file.Size, (*checkpoint.Tensor)(nil)
		if s.next < len(s.tensors) {
			t = s.tensors[s.next]
			stop = t.Offset + t.Bytes
			if s.at < t.Offset {
				stop, t = t.Offset, nil
			}
		}
		n := min(int64(len(p)), stop-s.at)
		if t == nil {
			s.visit(nil, s.at, p[:n])
			if s.at < s.file.HeadBytes {
				s.head.Write(p[:n])
			}
		} else {
			s.visit(t, s.at-t.Offset, p[:n])
			s.units(&s.sums[s.next], s.at-t.Offset, p[:n])
		}
		s.at, p = s.at+n, p[n:]
		if t != nil && s.at == stop {
			s.next++
		}
		s.endHead()
	}
}

func (s *scan) endHead() {
	if s.at == s.file.HeadBytes {
		binary.BigEndian.PutUint64(s.file.Head[:], s.head.Sum64())
	}
}

// units hashes p, which lies at off of a tensor.
func (s *scan) units(t *Tensor, off int64, p []byte) {
	for len(p) > 0 {
		_, _, stop := t.At(off)
		n := min(int64(len(p)), stop-off)
		s.unit.Write(p[:n])
		off, p = off+n, p[n:]
		if off == stop {
			t.Sums = binary.BigEndian.AppendUint64(t.Sums, s.unit.Sum64())
			s.unit.Reset()
		}
	}
}
