package shard

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// Part is a part of a whole tensor that one rank holds.
type Part struct {
	Rank  int
	Slice *Slice
}

// SlicesOf returns what the rank holds of a tensor: nothing, or one slice or
// more.
func (r *Rank) SlicesOf(tensor int) []Slice {
	from := sort.Search(len(r.Slices), func(i int) bool { return r.Slices[i].Tensor >= tensor })
	to := from
	for to < len(r.Slices) && r.Slices[to].Tensor == tensor {
		to++
	}
	return r.Slices[from:to]
}

// Tensors returns how many tensors the rank holds any of.
func (r *Rank) Tensors() (n int) {
	for i := range r.Slices {
		if i == 0 || r.Slices[i].Tensor != r.Slices[i-1].Tensor {
			n++
		}
	}
	return n
}

// Cover returns which ranks' slices rebuild a tensor: every element is in
// Rows × Cols of exactly one of them. They are ordered by rows, then columns,
// and of the first whole copy (dp 0).
func (p *Plan) Cover(tensor int) []Part {
	type area struct{ rows, cols Span }
	var parts []Part
	// Two slices are the same range, or share nothing.
	seen := map[area]bool{}
	for i := range p.Ranks {
		if p.Ranks[i].DP > 0 {
			break // ranks are numbered copy by copy
		}
		list := p.Ranks[i].SlicesOf(tensor)
		for j := range list {
			s := &list[j]
			at := area{s.Rows, s.Cols}
			if s.Rows.Len() == 0 || s.Cols.Len() == 0 || seen[at] {
				continue
			}
			seen[at] = true
			parts = append(parts, Part{i, s})
		}
	}
	slices.SortFunc(parts, func(x, y Part) int {
		return cmp.Or(cmp.Compare(x.Slice.Rows.Start, y.Slice.Rows.Start), cmp.Compare(x.Slice.Cols.Start, y.Slice.Cols.Start))
	})
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
