package shard

import (
	"fmt"
)

// ranks lays the arenas out.
func (b *builder) ranks() error {
	l := b.plan.Options.Layout
	for dp := range l.DP {
		for pp := range l.PP {
			for tp := range l.TP {
				b.plan.Ranks = append(b.plan.Ranks, b.arena(Rank{Rank: l.Rank(dp, pp, tp), DP: dp, PP: pp, TP: tp}))
			}
		}
	}
	b.straddles()
	return nil
}

// arena gives a rank its slices, one plane after the other.
func (b *builder) arena(r Rank) Rank {
	r.Slices = []Slice{}
	for i := range b.plan.Tensors {
		if !b.on(&b.parts[i], r.PP) {
			continue
		}
		t := &b.plan.Tensors[i]
		s := b.cut.slice(t, int64(r.TP))
		s.Tensor = i
		s.Planes = make([]Placement, len(t.Layout.Planes))
		for j, p := range t.Layout.Planes {
			row := p.RowBytes(s.Held.Len())
			s.Planes[j] = Placement{Offset: r.ArenaBytes, Bytes: s.Rows.Len() * row, RowBytes: row}
			r.ArenaBytes += (s.Planes[j].Bytes + Align - 1) / Align * Align
		}
		r.Slices = append(r.Slices, s)
	}
	return r
}

// straddles notes the tensors that some rank's cut divides inside a block.
func (b *builder) straddles() {
	tp := b.plan.Options.Layout.TP
	for i := range b.plan.Tensors {
		t := &b.plan.Tensors[i]
		if t.Rule == Replicated {
			continue
		}
		for rank := range tp {
			if s := b.cut.slice(t, int64(rank)); s.Held != s.Cols {
				b.plan.Straddles = append(b.plan.Straddles, Note{t.Name,
					fmt.Sprintf("%d columns cut by tp %d fall inside blocks of %d", t.Cols, tp, cutAlign(t.Layout))})
				break
			}
		}
	}
}
