package shard

import (
	"fmt"
	"slices"
)

// ranks lays the arenas out.
func (b *builder) ranks() error {
	l := b.plan.Options.Layout
	for dp := range l.DP {
		for pp := range l.PP {
			for ep := range l.EP {
				for tp := range l.TP {
					b.plan.Ranks = append(b.plan.Ranks, b.arena(Rank{Rank: l.Rank(dp, pp, ep, tp), DP: dp, PP: pp, EP: ep, TP: tp}))
				}
			}
		}
	}
	b.straddles()
	return nil
}

// arena gives a rank its slices.
func (b *builder) arena(r Rank) Rank {
	r.Slices = []Slice{}
	for i := range b.plan.Tensors {
		if !b.on(&b.parts[i], r.PP) || !b.cut.hasExpert(&b.parts[i], int64(r.EP)) {
			continue
		}
		t := &b.plan.Tensors[i]
		own := b.cut.slices(t, position{ep: int64(r.EP), tp: int64(r.TP)})
		for j := range own {
			own[j].Tensor = i
		}
		r.ArenaBytes = lay(t, own, r.ArenaBytes)
		r.Slices = append(r.Slices, own...)
	}
	return r
}

// lay places a rank's slices of a tensor in its arena, one plane after the
// other, and returns where they end. Rows of the same columns follow each
// other.
func lay(t *Tensor, own []Slice, end int64) int64 {
	for len(own) > 0 {
		n := 1
		for n < len(own) && own[n].Cols == own[0].Cols {
			n++
		}
		for i := range own[:n] {
			own[i].Planes = make([]Placement, len(t.Layout.Planes))
		}
		for j, p := range t.Layout.Planes {
			row := p.RowBytes(own[0].Held.Len())
			for i := range own[:n] {
				s := &own[i]
				s.Planes[j] = Placement{Offset: end, Bytes: (s.Rows.Len() + s.Pad) * row, RowBytes: row}
				end += s.Planes[j].Bytes
			}
			end = (end + Align - 1) / Align * Align
		}
		own = own[n:]
	}
	return end
}

// straddles notes the tensors that some rank's cut divides inside a block.
func (b *builder) straddles() {
	for i := range b.plan.Tensors {
		t := &b.plan.Tensors[i]
		if t.Rule == Replicated {
			continue
		}
		for tp := range b.cut.tp {
			if slices.ContainsFunc(b.cut.slices(t, position{tp: tp}), func(s Slice) bool { return s.Held != s.Cols }) {
				b.plan.Straddles = append(b.plan.Straddles, Note{t.Name,
					fmt.Sprintf("%d columns cut by tp %d fall inside blocks of %d", t.Cols, b.cut.tp, cutAlign(t.Layout))})
				break
			}
		}
	}
}
