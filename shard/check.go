package shard

import (
	"slices"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
)

// check says whether a plan that was read is one that Build could have made:
// every number that points somewhere points inside, planes do not overlap, the
// ranks hold every tensor, and pieces follow from slices and segments.
func (p *Plan) check() error {
	o, err := p.Options.normalise()
	switch {
	case err != nil:
		return badPlan("%w", err)
	case !o.equal(p.Options):
		return badPlan("its options are not written out in full")
	case o.Layout.Ranks() != len(p.Ranks):
		return badPlan("layout %s has %d ranks, the plan %d", o.Layout, o.Layout.Ranks(), len(p.Ranks))
	}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		n, err := dtype.Elements([]int64{t.Rows, t.Cols})
		if err != nil {
			return badPlan("tensor %q: %w", t.Name, err)
		}
		if size, err := t.DType.Bytes(n); !t.packed() && (err != nil || size != t.Bytes) {
			return badPlan("tensor %q: %d×%d of %s are not %d bytes", t.Name, t.Rows, t.Cols, t.DType, t.Bytes)
		}
		if t.Experts < 0 || t.Experts > 0 && t.Rows%t.Experts != 0 {
			return badPlan("tensor %q: %d rows are not those of %d experts", t.Name, t.Rows, t.Experts)
		}
		if err := p.checkParts(t); err != nil {
			return err
		}
	}
	for i := range p.Ranks {
		if err := p.checkRank(i, &p.Ranks[i]); err != nil {
			return err
		}
	}
	for i := range p.Tensors {
		t, held := &p.Tensors[i], int64(0)
		for _, part := range p.Cover(i) {
			held += part.Slice.Rows.Len() * part.Slice.Cols.Len()
		}
		if held != t.Rows*t.Cols {
			return badPlan("tensor %q: the ranks hold %d of its %d elements", t.Name, held, t.Rows*t.Cols)
		}
	}
	s := newScatter(p)
	for i := range p.Chunks {
		c := &p.Chunks[i]
		if err := p.checkChunk(i, c); err != nil {
			return err
		}
		if !slices.EqualFunc(c.Pieces, s.pieces(c), Piece.equal) {
			return badPlan("chunk %d: its pieces do not follow from its segments", i)
		}
	}
	return nil
}

func (p *Plan) checkRank(number int, r *Rank) error {
	l := p.Options.Layout
	in := func(n, degree int) bool { return 0 <= n && n < degree }
	if r.Rank != number || !in(r.DP, l.DP) || !in(r.PP, l.PP) || !in(r.EP, l.EP) || !in(r.TP, l.TP) || l.Rank(r.DP, r.PP, r.EP, r.TP) != number {
		return badPlan("rank %d stands at %d", r.Rank, number)
	}
	for i, s := range r.Slices {
		if s.Tensor < 0 || s.Tensor >= len(p.Tensors) || i > 0 && !r.Slices[i-1].before(&s) {
			return badPlan("rank %d: slice %d is of tensor %d", number, i, s.Tensor)
		}
		t := &p.Tensors[s.Tensor]
		align, per := cutAlign(t.Layout), t.Together()
		if !s.Rows.within(t.Rows) || s.Rows.Start%per != 0 || s.Rows.Stop%per != 0 || !s.Cols.within(t.Cols) || s.Held != s.Cols.cover(align, t.Cols) {
			return badPlan("rank %d: what it holds of tensor %q is not in it", number, t.Name)
		}
		if s.Pad != 0 && !p.pads(t, &s) {
			return badPlan("rank %d: tensor %q is filled up with %d rows", number, t.Name, s.Pad)
		}
	}
	var end int64
	for i := range p.Tensors {
		own := r.SlicesOf(i)
		want := slices.Clone(own)
		end = lay(&p.Tensors[i], want, end)
		if !slices.EqualFunc(own, want, func(a, b Slice) bool { return slices.Equal(a.Planes, b.Planes) }) {
			return badPlan("rank %d: tensor %q does not lie in its arena", number, p.Tensors[i].Name)
		}
	}
	if end != r.ArenaBytes {
		return badPlan("rank %d: its arena has %d bytes, its tensors take %d", number, r.ArenaBytes, end)
	}
	return nil
}

// pads says whether a slice is filled up as Options.PadVocab asks.
func (p *Plan) pads(t *Tensor, s *Slice) bool {
	if t.Rule != Vocab || p.Options.PadVocab == 0 {
		return false
	}
	tp := int64(p.Options.Layout.TP)
	rows := up(t.Rows, p.Options.PadVocab)
	return rows%tp == 0 && s.Pad == rows/tp-s.Rows.Len()
}

// before says whether a slice may follow s in a rank: of a later tensor, or of
// later rows, or columns, of the same.
func (s *Slice) before(next *Slice) bool {
	switch {
	case s.Tensor != next.Tensor:
		return s.Tensor < next.Tensor
	case s.Rows == next.Rows:
		return s.Cols.Stop <= next.Cols.Start
	}
	return s.Rows.Stop <= next.Rows.Start
}

func (p *Plan) checkChunk(id int, c *Chunk) error {
	if c.ID != id || c.File < 0 || c.File >= len(p.Files) || c.Bytes > MaxHeldBytes || !fits(c.Offset, c.Bytes, p.Files[c.File].Size) {
		return badPlan("chunk %d is not in its file", id)
	}
	if c.Also != nil {
		return p.checkPackedChunk(id, c)
	}
	if c.Bytes > MaxChunkBytes {
		return badPlan("chunk %d has %d bytes", id, c.Bytes)
	}
	var end int64
	for i, s := range c.Segments {
		if s.Tensor < 0 || s.Tensor >= len(p.Tensors) {
			return badPlan("chunk %d: segment %d is of tensor %d", id, i, s.Tensor)
		}
		t := &p.Tensors[s.Tensor]
		if t.packed() {
			return badPlan("chunk %d: tensor %q is in parts", id, t.Name)
		}
		align := t.readAlign()
		whole := s.Cols == Span{0, t.Cols}
		part := s.Rows.Len() == 1 && s.Cols == s.Cols.cover(align, t.Cols) && !wholeRow(t.Layout) && t.Source == nil
		per := t.Together()
		if !s.Rows.within(t.Rows) || !s.Cols.within(t.Cols) || !whole && !part || s.Rows.Start%per != 0 || s.Rows.Stop%per != 0 {
			return badPlan("chunk %d: segment %d is not a run of tensor %q", id, i, t.Name)
		}
		if t.Layout.Scope == quant.Tensor && !p.ReadTwice(s.Tensor) && !(whole && s.Rows == Span{0, t.Rows}) {
			return badPlan("chunk %d: segment %d is a part of tensor %q, which %s needs all of", id, i, t.Name, t.Scheme)
		}
		if size, err := t.DType.Bytes(s.Rows.Len() * s.Cols.Len()); err != nil || s.Bytes != size || s.At != end && (s.At < 0 || s.At > end-s.Bytes) {
			return badPlan("chunk %d: segment %d does not lie in it", id, i)
		}
		end = max(end, s.At+s.Bytes)
	}
	if end != c.Bytes {
		return badPlan("chunk %d has %d bytes, its segments %d", id, c.Bytes, end)
	}
	return nil
}

// checkParts checks where a tensor's bytes lie.
func (p *Plan) checkParts(t *Tensor) error {
	parts := []form.Part{t.weight()}
	if t.packed() {
		if t.Source == nil {
			return badPlan("tensor %q has parts but no form", t.Name)
		}
		parts = t.Source.Parts()
	}
	runs := t.Runs()
	if len(parts) != len(runs) {
		return badPlan("tensor %q has %d parts, its form %d", t.Name, len(runs), len(parts))
	}
	for i, r := range runs {
		if r.File < 0 || r.File >= len(p.Files) || !fits(r.Offset, r.Bytes, p.Files[r.File].Size) || t.packed() && r.Bytes != parts[i].Bytes() {
			return badPlan("tensor %q is not in its file", t.Name)
		}
	}
	return nil
}

// checkPackedChunk checks a chunk of a packed weight.
func (p *Plan) checkPackedChunk(id int, c *Chunk) error {
	if len(c.Segments) != 1 {
		return badPlan("chunk %d has %d segments beside other runs", id, len(c.Segments))
	}
	s := &c.Segments[0]
	if s.Tensor < 0 || s.Tensor >= len(p.Tensors) {
		return badPlan("chunk %d is of tensor %d", id, s.Tensor)
	}
	t := &p.Tensors[s.Tensor]
	if !t.packed() || !s.Rows.within(t.Rows) || s.Cols != (Span{0, t.Cols}) || s.At != 0 || s.Bytes != c.Bytes {
		return badPlan("chunk %d is not a run of tensor %q", id, t.Name)
	}
	if t.Held() && s.Rows.Len() != t.Rows {
		return badPlan("chunk %d: tensor %q is read as a whole", id, t.Name)
	}
	runs := append([]Run{{c.File, c.Offset, c.Bytes}}, c.Also...)
	for i, want := range t.window(s.Rows) {
		if i >= len(runs) || runs[i] != want {
			return badPlan("chunk %d does not have what its rows of tensor %q need", id, t.Name)
		}
	}
	return nil
}

func (p Piece) equal(q Piece) bool {
	return p.Rank == q.Rank && p.Bytes == q.Bytes && slices.Equal(p.Extents, q.Extents)
}

// fits says whether size bytes from offset are within [0, n).
func fits(offset, size, n int64) bool {
	return offset >= 0 && size >= 0 && offset <= n && size <= n-offset
}
