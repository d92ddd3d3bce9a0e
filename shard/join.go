package shard

import (
	"fmt"
	"slices"
	"sort"
)

// Part is one rank's part of a whole tensor.
type Part struct {
	Rank  int
	Slice *Slice
}

// Slice returns what the rank holds of a tensor, or nil.
func (r *Rank) Slice(tensor int) *Slice {
	i, ok := sort.Find(len(r.Slices), func(i int) int { return tensor - r.Slices[i].Tensor })
	if !ok {
		return nil
	}
	return &r.Slices[i]
}

// Cover returns which ranks' slices rebuild a tensor: every element is in
// Rows × Cols of exactly one of them. They are ordered by rows, then columns,
// and of the first whole copy (dp 0).
func (p *Plan) Cover(tensor int) []Part {
	var parts []Part
	for i := range p.Ranks {
		r := &p.Ranks[i]
		if r.DP > 0 {
			break // ranks are numbered copy by copy
		}
		s := r.Slice(tensor)
		if s == nil || s.Rows.Len() == 0 || s.Cols.Len() == 0 {
			continue
		}
		// Two slices are the same range, or share nothing.
		same := func(o Part) bool { return o.Slice.Rows == s.Rows && o.Slice.Cols == s.Cols }
		if n := len(parts); n > 0 && same(parts[n-1]) || slices.ContainsFunc(parts, same) {
			continue
		}
		parts = append(parts, Part{i, s})
	}
	return parts
}

// ReadArena reads len(b) bytes at offset off of a rank's arena.
type ReadArena func(rank int, b []byte, off int64) error

// JoinRows rebuilds the encoded form of some rows of a tensor from the ranks'
// arenas, whatever the layout: dst[i] gets rows.Len() × RowBytes(Cols) bytes
// of the tensor's i-th plane. It holds at most one more copy of one rank's
// part of these rows, so that a caller bounds memory by the rows it asks for.
func (p *Plan) JoinRows(tensor int, rows Span, dst [][]byte, read ReadArena) error {
	t := &p.Tensors[tensor]
	if !rows.within(t.Rows) || len(dst) != len(t.Layout.Planes) {
		return fmt.Errorf("shard: join tensor %q: rows [%d, %d) of %d into %d planes of %d",
			t.Name, rows.Start, rows.Stop, t.Rows, len(dst), len(t.Layout.Planes))
	}
	cover := p.Cover(tensor)
	for i, plane := range t.Layout.Planes {
		whole := plane.RowBytes(t.Cols)
		if int64(len(dst[i])) != rows.Len()*whole {
			return fmt.Errorf("shard: join tensor %q: plane %d has %d bytes of room for %d", t.Name, i, len(dst[i]), rows.Len()*whole)
		}
		for _, part := range cover {
			s := part.Slice
			got := rows.Intersect(s.Rows)
			if got.Len() == 0 {
				continue
			}
			at := s.Planes[i]
			offset := at.Offset + (got.Start-s.Rows.Start)*at.RowBytes
			out := dst[i][(got.Start-rows.Start)*whole : (got.Stop-rows.Start)*whole]
			in := out
			if s.Held.Len() < t.Cols {
				in = make([]byte, got.Len()*at.RowBytes)
			}
			if err := read(part.Rank, in, offset); err != nil {
				return fmt.Errorf("shard: join tensor %q: rank %d: %w", t.Name, part.Rank, err)
			}
			if s.Held.Len() == t.Cols {
				continue
			}
			// A block that two ranks hold is written twice, with the same
			// bytes; so is what belongs to the whole row.
			start := int64(0)
			if plane.Cols > 0 {
				start = plane.RowBytes(s.Held.Start)
			}
			for r := range got.Len() {
				copy(out[r*whole+start:], in[r*at.RowBytes:(r+1)*at.RowBytes])
			}
		}
	}
	return nil
}
