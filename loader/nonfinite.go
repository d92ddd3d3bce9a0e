package loader

import (
	"context"
	"slices"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// Values that are no finite numbers are counted twice where a load asks for
// it: as they are read, for what was stored, and in the arena, for what was
// placed. The first count goes with its piece, also to another worker, so that
// it is there when the rank is sealed whoever read what.

// tally counts the values of rows that a scheme is about to be given, for each
// target those that its rank owns. Tensors that stay as they are stored are
// counted where they are placed.
func (x *transform) tally(s span, rows []byte) {
	if x.plan == nil || s.run.enc.tensor.Scheme == "none" {
		return
	}
	from, cols := s.run.enc.tensor.From, s.run.seg.Cols
	elements, size := from.Block()
	row := cols.Len() / elements * size
	rows = rows[:s.rows.Len()*row]
	all := from.NonFinite(rows)
	if all == (dtype.NonFinite{}) {
		return
	}
	for _, sh := range s.run.share {
		rank := sh.t.dest.Hold.Rank
		slice := sh.slice(x.plan, s.run.seg)
		own := slice.Cols.Intersect(cols)
		found := all
		if own != cols {
			found = dtype.NonFinite{}
			for at := int64(0); at < int64(len(rows)); at += row {
				part := rows[at+(own.Start-cols.Start)/elements*size : at+(own.Stop-cols.Start)/elements*size]
				found = found.Plus(from.NonFinite(part))
			}
		}
		sh.t.stored = sh.t.stored.Plus(tallied(x.plan, slice, rank, found))
	}
}

// slice returns what the share is for: it has the order of the rank's slices
// that the segment has any of, as the planner's pieces do.
func (sh share) slice(p *shard.Plan, seg *shard.Segment) *shard.Slice {
	own := p.Ranks[sh.t.dest.Hold.Rank].SlicesOf(seg.Tensor)
	nth := sh.nth
	for i := range own {
		s := &own[i]
		if seg.Rows.Intersect(s.Rows).Len() == 0 || seg.Cols.Intersect(s.Held).Len() == 0 {
			continue
		}
		if nth == 0 {
			return s
		}
		nth--
	}
	return nil // not for a piece of the plan
}

// tallied adds to what was found in a rank's slice of a tensor whether it is the
// one that stands for it where ranks hold the same.
func tallied(p *shard.Plan, slice *shard.Slice, rank int, n dtype.NonFinite) dtype.Tally {
	t := dtype.Tally{All: n}
	if n != (dtype.NonFinite{}) && slices.ContainsFunc(p.Cover(slice.Tensor), func(part shard.Part) bool { return part.Rank == rank && part.Slice == slice }) {
		t.Once = n
	}
	return t
}

// nonFinite counts what the rank owns of all values, in what was stored and in
// what was placed.
func (c *checker) nonFinite(ctx context.Context) (stored, placed dtype.Tally, err error) {
	stored = c.rank.stored()
	plan, rank := c.rank.plan, c.rank.hold.Rank
	for i := range plan.Ranks[rank].Slices {
		s := &plan.Ranks[rank].Slices[i]
		n, err := c.inSlice(ctx, s)
		if err != nil {
			return stored, placed, err
		}
		t := tallied(plan, s, rank, n)
		placed = placed.Plus(t)
		if c.encoded[s.Tensor].tensor.Scheme == "none" {
			stored = stored.Plus(t)
		}
	}
	return stored, placed, nil
}

// inSlice counts in one tensor.
func (c *checker) inSlice(ctx context.Context, s *shard.Slice) (n dtype.NonFinite, err error) {
	t := c.encoded[s.Tensor].tensor
	cols := s.Held.Len()
	kept := t.Scheme == "none"
	plain := kept && t.DType.CanBeNonFinite() // F64 too, which no float32 holds
	if cols == 0 || s.Cols.Len() == 0 || !plain && !quant.Decodes(t.From) || kept && t.Codes {
		return n, nil
	}
	step := max(decodeValues/cols, 1)
	values := min(step, s.Rows.Len()) * cols
	if plain {
		values = 0
	}
	err = c.eachRows(ctx, s, shard.Span{Stop: s.Rows.Len()}, step, values, func(v view, buf []float32) error {
		if plain {
			n = n.Plus(t.DType.NonFinite(v.planes[0]))
			return nil
		}
		v.decode(buf, v.rows)
		for r := range v.rows.Len() {
			// Not the rest of a block that another rank owns.
			own := buf[r*cols+s.Cols.Start-s.Held.Start : r*cols+s.Cols.Stop-s.Held.Start]
			n = n.Plus(dtype.NonFiniteOf(own))
		}
		return nil
	})
	return n, err
}
