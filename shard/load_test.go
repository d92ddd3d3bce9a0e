package shard_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// stored is a checkpoint in memory.
type stored struct {
	ix    *checkpoint.Index
	files [][]byte
}

// add appends a tensor to a file, gap bytes after the one before.
func (s *stored) add(file int, gap int64, name string, d dtype.Type, shape ...int64) {
	n, err := dtype.Elements(shape)
	if err != nil {
		panic(err)
	}
	size, err := d.PaddedBytes(n)
	if err != nil {
		panic(err)
	}
	for len(s.ix.Files) <= file {
		s.ix.Files = append(s.ix.Files, source.File{Name: fmt.Sprintf("%d.safetensors", len(s.ix.Files)), ID: "1"})
	}
	f := &s.ix.Files[file]
	f.Size += gap
	s.ix.Tensors = append(s.ix.Tensors, checkpoint.Tensor{Name: name, DType: d, Shape: shape, File: int32(file), Offset: f.Size, Bytes: size})
	f.Size += size
}

// fill makes up the files' bytes: small floats where tensors are floats.
func (s *stored) fill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	s.files = make([][]byte, len(s.ix.Files))
	for i, f := range s.ix.Files {
		s.files[i] = make([]byte, f.Size)
		for j := range s.files[i] {
			s.files[i][j] = byte(r.Uint32())
		}
	}
	for _, t := range s.ix.Tensors {
		// The exponent's upper bits: values of about 1, never NaN or infinite.
		b := s.files[t.File][t.Offset : t.Offset+t.Bytes]
		if size := t.DType.Size(); t.DType.Float() {
			for i := size - 1; i < len(b); i += size {
				b[i] = b[i]&0x80 | 0x3b
			}
		}
	}
}

// bytes returns a tensor's stored bytes.
func (s *stored) bytes(t *shard.Tensor) []byte {
	return s.files[t.File][t.Offset : t.Offset+t.Bytes]
}

// encode returns the planes of rows × cols elements.
func encode(t testing.TB, s *stored, tensor *shard.Tensor, src []byte, rows, cols int64) [][]byte {
	scheme, err := quant.Parse(tensor.Scheme)
	if err != nil {
		t.Fatal(err)
	}
	if tensor.Layout.Scope == quant.Tensor {
		scheme = quant.Fit(scheme, quant.FiniteAbsmax(s.bytes(tensor), tensor.DType))
	}
	planes := make([][]byte, len(tensor.Layout.Planes))
	for i, p := range tensor.Layout.Planes {
		planes[i] = make([]byte, rows*p.RowBytes(cols))
	}
	if rows*cols > 0 {
		scheme.Encode(planes, src, tensor.DType, int(rows), int(cols))
	}
	return planes
}

type fataler interface{ Fatalf(string, ...any) }

// runs are ranges of bytes.
type runs []shard.Span

func (r *runs) add(offset, size int64) {
	if size > 0 {
		*r = append(*r, shard.Span{Start: offset, Stop: offset + size})
	}
}

// same checks that got is want cut otherwise: no byte less, more, or twice.
func (r runs) same(f fataler, what string, want runs) {
	got, want := r.merge(f, what), want.merge(f, what)
	if !slices.Equal(got, want) {
		f.Fatalf("%s are %v, want %v", what, got, want)
	}
}

// merge sorts ranges and joins those that touch. None may overlap.
func (r runs) merge(f fataler, what string) (m runs) {
	slices.SortFunc(r, func(a, b shard.Span) int { return cmp.Compare(a.Start, b.Start) })
	for i, s := range r {
		switch {
		case i == 0 || m[len(m)-1].Stop < s.Start:
			m = append(m, s)
		case m[len(m)-1].Stop > s.Start:
			f.Fatalf("%s: bytes from %d come twice", what, s.Start)
		default:
			m[len(m)-1].Stop = s.Stop
		}
	}
	return m
}

// load carries a plan out in the simplest way, and checks that each stored
// byte is read once and each byte of each plane is written once.
func load(t testing.TB, f fataler, s *stored, p *shard.Plan) [][]byte {
	arenas, writes := make([][]byte, len(p.Ranks)), make([]runs, len(p.Ranks))
	for i, r := range p.Ranks {
		arenas[i] = make([]byte, r.ArenaBytes)
	}
	reads, tensors := make([]runs, len(s.files)), make([]runs, len(s.files))
	for _, c := range p.Chunks {
		if c.Bytes > p.Options.ChunkBytes || c.Bytes <= 0 {
			f.Fatalf("chunk %d has %d bytes", c.ID, c.Bytes)
		}
		raw := s.files[c.File][c.Offset : c.Offset+c.Bytes]
		planes := make([][][]byte, len(c.Segments))
		var at int64
		for i, seg := range c.Segments {
			tensor := &p.Tensors[seg.Tensor]
			if seg.At != at || c.File != tensor.File {
				f.Fatalf("chunk %d segment %d: %+v", c.ID, i, seg)
			}
			reads[c.File].add(c.Offset+at, seg.Bytes)
			at += seg.Bytes
			planes[i] = encode(t, s, tensor, raw[seg.At:seg.At+seg.Bytes], seg.Rows.Len(), seg.Cols.Len())
		}
		if at != c.Bytes {
			f.Fatalf("chunk %d has %d bytes, its segments %d", c.ID, c.Bytes, at)
		}
		last := -1
		for _, piece := range c.Pieces {
			if piece.Rank <= last {
				f.Fatalf("chunk %d: pieces are not in rank order", c.ID)
			}
			last = piece.Rank
			var sum int64
			for _, e := range piece.Extents {
				seg := c.Segments[e.Segment]
				plane := p.Tensors[seg.Tensor].Layout.Planes[e.Plane]
				row, part := plane.RowBytes(seg.Cols.Len()), plane.RowBytes(e.Cols.Len())
				var skip int64
				if plane.Cols > 0 {
					skip = plane.RowBytes(e.Cols.Start - seg.Cols.Start)
				}
				to := e.Offset
				for r := e.Rows.Start - seg.Rows.Start; r < e.Rows.Stop-seg.Rows.Start; r++ {
					copy(arenas[piece.Rank][to:to+part], planes[e.Segment][e.Plane][r*row+skip:])
					to += part
				}
				if to-e.Offset != e.Bytes {
					f.Fatalf("chunk %d rank %d: extent %+v has %d bytes", c.ID, piece.Rank, e, to-e.Offset)
				}
				writes[piece.Rank].add(e.Offset, e.Bytes)
				sum += e.Bytes
			}
			if sum != piece.Bytes || sum == 0 {
				f.Fatalf("chunk %d rank %d: piece of %d bytes, extents %d", c.ID, piece.Rank, piece.Bytes, sum)
			}
		}
	}
	for _, tensor := range p.Tensors {
		tensors[tensor.File].add(tensor.Offset, tensor.Bytes)
	}
	for i := range reads {
		reads[i].same(f, fmt.Sprintf("reads of file %d", i), tensors[i])
	}
	checkPlanes(f, p, writes)
	return arenas
}

// checkPlanes checks that planes are aligned, do not overlap, and that every
// byte of them, and no other, was written once.
func checkPlanes(f fataler, p *shard.Plan, writes []runs) {
	var placed int64
	for i, r := range p.Ranks {
		if r.Rank != i || p.Options.Layout.Rank(r.DP, r.PP, r.EP, r.TP) != i {
			f.Fatalf("rank %d is numbered %+v", i, r)
		}
		var planes runs
		for k, s := range r.Slices {
			for j, at := range s.Planes {
				first := k == 0 || r.Slices[k-1].Tensor != s.Tensor || r.Slices[k-1].Cols != s.Cols
				lies := at.Offset%shard.Align == 0
				if !first {
					before := r.Slices[k-1].Planes[j]
					lies = at.Offset == before.Offset+before.Bytes
				}
				if !lies || at.Bytes != (s.Rows.Len()+s.Pad)*at.RowBytes {
					f.Fatalf("rank %d: plane %d of %s lies badly: %+v", i, j, p.Tensors[s.Tensor].Name, at)
				}
				planes.add(at.Offset, s.Rows.Len()*at.RowBytes)
				placed += s.Rows.Len() * at.RowBytes
			}
		}
		writes[i].same(f, fmt.Sprintf("writes to rank %d", i), planes)
	}
	if placed != p.PlacedBytes {
		f.Fatalf("PlacedBytes is %d, planes have %d", p.PlacedBytes, placed)
	}
}

// checkJoin checks that joining the ranks gives what the whole tensor becomes
// without any layout, in groups of rows.
func checkJoin(t testing.TB, f fataler, s *stored, p *shard.Plan, arenas [][]byte, group int64) {
	read := func(rank int, b []byte, off int64) error {
		copy(b, arenas[rank][off:off+int64(len(b))])
		return nil
	}
	for i := range p.Tensors {
		tensor := &p.Tensors[i]
		want := encode(t, s, tensor, s.bytes(tensor), tensor.Rows, tensor.Cols)
		got := make([][]byte, len(want))
		for r := int64(0); r < tensor.Rows; r += group {
			rows := shard.Span{Start: r, Stop: min(r+group, tensor.Rows)}
			dst := make([][]byte, len(want))
			for j, plane := range tensor.Layout.Planes {
				dst[j] = make([]byte, rows.Len()*plane.RowBytes(tensor.Cols))
			}
			if err := p.JoinRows(i, rows, dst, read); err != nil {
				f.Fatalf("%v", err)
			}
			for j := range dst {
				got[j] = append(got[j], dst[j]...)
			}
		}
		for j := range want {
			if !bytes.Equal(got[j], want[j]) {
				f.Fatalf("%s: plane %d joined differs from the whole (%s, %s)", tensor.Name, j, tensor.Scheme, p.Options.Layout)
			}
		}
		var elements int64
		for _, part := range p.Cover(i) {
			elements += part.Slice.Rows.Len() * part.Slice.Cols.Len()
		}
		if elements != tensor.Rows*tensor.Cols {
			f.Fatalf("%s: the cover has %d elements of %d×%d", tensor.Name, elements, tensor.Rows, tensor.Cols)
		}
	}
}
