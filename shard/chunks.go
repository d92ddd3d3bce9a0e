package shard

import (
	"slices"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/quant"
)

// chunks cuts the stored bytes and says where each part of them lands.
func (b *builder) chunks() error {
	p := b.plan
	hosts := b.hosts()
	guests := map[int][]int{}
	for i, host := range hosts {
		if host >= 0 {
			guests[host] = append(guests[host], i)
		}
	}
	for i := range p.Tensors {
		if hosts[i] >= 0 {
			continue
		}
		first := len(p.Chunks)
		b.segments(i)
		if first > 0 && slices.ContainsFunc(p.Chunks[first-1].Segments, func(s Segment) bool { return s.Tensor == i }) {
			first--
		}
		chunks := p.Chunks[first:]
		for _, guest := range guests[i] {
			if !b.share(guest, chunks) {
				b.segments(guest)
			}
		}
	}
	for i := range p.Tensors {
		if p.ReadTwice(i) {
			b.twice = append(b.twice, p.Tensors[i].Name)
		}
	}
	s := newScatter(p)
	for i := range p.Chunks {
		c := &p.Chunks[i]
		c.ID = i
		c.Pieces = s.pieces(c)
		p.ReadBytes += c.Stored()
		for _, s := range c.Segments {
			if p.ReadTwice(s.Tensor) { // what is read besides is such a tensor's alone
				p.ReadBytes += s.Bytes + c.Stored() - c.Bytes
			}
		}
		for _, piece := range c.Pieces {
			p.PlacedBytes += piece.Bytes
		}
	}
	return nil
}

// ownBytes is how many stored bytes a chunk has at least where it is cut short
// so that one rank alone needs it.
const ownBytes = 1 << 20

// ReadTwice says whether a tensor must be read twice, first for its largest
// value: its scheme needs that of the whole, and no chunk has all of it, in one part. Whoever
// reads one of its chunks should read the others, or it is read once more.
func (p *Plan) ReadTwice(tensor int) bool {
	t := &p.Tensors[tensor]
	return t.Layout.Scope == quant.Tensor && (t.packed() || t.Bytes > p.Options.ChunkBytes)
}

// segments appends the stored bytes of a tensor to the chunks: to the last
// one, where they follow it in the file and fit as a whole, else in runs of
// rows, or of columns where a row is longer than a chunk. Runs end where a
// rank's rows end: who reads a run that is all its own sends nothing.
func (b *builder) segments(tensor int) {
	t, limit := &b.plan.Tensors[tensor], b.plan.Options.ChunkBytes
	if t.Bytes == 0 {
		return
	}
	if len(t.Parts) > 0 {
		b.packedSegments(tensor)
		return
	}
	if t.Layout.Scope == quant.Tensor && !b.plan.ReadTwice(tensor) {
		b.segment(tensor, t.Offset, t.Bytes, Span{0, t.Rows}, Span{0, t.Cols}, b.everybody())
		return
	}
	w := t.weight()
	if row := w.Unit / w.Per; t.Source != nil || row <= limit {
		step := max(limit/w.Unit, 1) * w.Per
		if unit := digests.UnitRows(row); step > unit && unit%w.Per == 0 {
			step -= step % unit // chunks end where digests do
		}
		for _, o := range b.cut.owned(t, ownBytes/row, b.cut.holders(&b.parts[tensor])) {
			for r := o.rows.Start; r < o.rows.Stop; r += step {
				rows := Span{r, min(r+step, o.rows.Stop)}
				b.segment(tensor, t.Offset+r*row, rows.Len()*row, rows, Span{0, t.Cols}, o.ranks)
			}
		}
		return
	}
	elements, bytes := t.DType.Block()
	align := t.readAlign()
	step := limit / bytes * elements / align * align
	for r := range t.Rows {
		for c := int64(0); c < t.Cols; c += step {
			cols := Span{c, min(c+step, t.Cols)}
			start, stop := c/elements*bytes, cols.Stop/elements*bytes
			b.segment(tensor, t.Offset+r*w.Unit+start, stop-start, Span{r, r + 1}, cols, b.everybody())
		}
	}
}

// everybody is all ranks of a stage.
func (b *builder) everybody() Span { return Span{0, b.cut.ep * b.cut.tp} }

// segment appends one segment, for the given ranks of a stage, to the last
// chunk where it can: not where each is large and for other ranks.
func (b *builder) segment(tensor int, offset, size int64, rows, cols, ranks Span) {
	p := b.plan
	s := Segment{Tensor: tensor, Bytes: size, Rows: rows, Cols: cols}
	if n := len(p.Chunks); n > 0 {
		last := &p.Chunks[n-1]
		follows := last.File == p.Tensors[tensor].File && last.Offset+last.Bytes == offset && last.Bytes+size <= p.Options.ChunkBytes && last.Also == nil
		if follows && (ranks == b.ranked || min(size, last.Bytes) < ownBytes) {
			if last.Bytes < ownBytes {
				b.ranked = ranks
			}
			s.At = last.Bytes
			last.Bytes += size
			last.Segments = append(last.Segments, s)
			return
		}
	}
	b.ranked = ranks
	p.Chunks = append(p.Chunks, Chunk{File: p.Tensors[tensor].File, Offset: offset, Bytes: size, Segments: []Segment{s}})
}

// scatter knows who holds each tensor.
type scatter struct {
	plan   *Plan
	owners [][]owner // by tensor, in rank order
	slot   []int     // by rank: index of its piece in the chunk at hand, -1 without
}

type owner struct {
	rank  int
	slice *Slice
}

func newScatter(p *Plan) *scatter {
	s := &scatter{plan: p, owners: make([][]owner, len(p.Tensors)), slot: make([]int, len(p.Ranks))}
	for i := range p.Ranks {
		s.slot[i] = -1
		for j := range p.Ranks[i].Slices {
			slice := &p.Ranks[i].Slices[j]
			s.owners[slice.Tensor] = append(s.owners[slice.Tensor], owner{i, slice})
		}
	}
	return s
}

// pieces returns what a chunk leaves in each rank, in rank order.
func (s *scatter) pieces(c *Chunk) []Piece {
	pieces := []Piece{}
	for i := range c.Segments {
		seg := &c.Segments[i]
		layout := s.plan.Tensors[seg.Tensor].Layout
		for _, o := range s.owners[seg.Tensor] {
			rows, cols := seg.Rows.Intersect(o.slice.Rows), seg.Cols.Intersect(o.slice.Held)
			if rows.Len() == 0 || cols.Len() == 0 {
				continue
			}
			if s.slot[o.rank] < 0 {
				s.slot[o.rank] = len(pieces)
				pieces = append(pieces, Piece{Rank: o.rank, Extents: make([]Extent, 0, len(c.Segments)*len(layout.Planes))})
			}
			piece := &pieces[s.slot[o.rank]]
			for plane, at := range o.slice.Planes {
				unit := layout.Planes[plane]
				e := Extent{Segment: i, Plane: plane, Rows: rows, Cols: cols,
					Offset: at.Offset + (rows.Start-o.slice.Rows.Start)*at.RowBytes,
					Bytes:  rows.Len() * unit.RowBytes(cols.Len())}
				if before := cols.Start - o.slice.Held.Start; before > 0 {
					e.Offset += unit.RowBytes(before)
				}
				piece.Bytes += e.Bytes
				piece.Extents = append(piece.Extents, e)
			}
		}
	}
	for _, p := range pieces {
		s.slot[p.Rank] = -1
	}
	slices.SortFunc(pieces, func(a, b Piece) int { return a.Rank - b.Rank })
	return pieces
}
