package shard

import (
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
)

// Packed weights: those that a quantizer stored as several tensors. Under none
// each of these is placed by itself, cut where the weight would be; under
// another scheme the weight is one tensor, decoded while it is loaded.

// checkPacked checks that packed weights are made of tensors that are there,
// each of one weight only, and returns which they are.
func (b *builder) checkPacked() (members map[int]bool, err error) {
	members = map[int]bool{}
	for i := range b.ix.Packed {
		w := &b.ix.Packed[i]
		if len(w.Parts) == 0 || len(w.Shape) == 0 {
			return nil, invalid(w.Name, "it has no parts, or no shape")
		}
		if n, err := dtype.Elements(w.Shape); err != nil || n < 1 {
			return nil, invalid(w.Name, "it has %d elements", n)
		}
		for _, part := range slices.Concat(w.Parts, w.Beside) {
			if part < 0 || part >= len(b.ix.Tensors) || members[part] {
				return nil, invalid(w.Name, "its part %d is no tensor of its own", part)
			}
			members[part] = true
		}
		f, err := b.formOf(w)
		if err != nil {
			return nil, invalid(w.Name, "%w", err)
		}
		for k, p := range f.Parts() {
			if k >= len(w.Parts) || b.ix.Tensors[w.Parts[k]].Bytes != p.Bytes() {
				return nil, invalid(w.Name, "its parts do not have the sizes of %s", w.Form)
			}
		}
	}
	return members, nil
}

func (b *builder) formOf(w *checkpoint.Packed) (form.Form, error) {
	rows, cols := w.Matrix()
	f, err := form.Open(w.Form, b.ix.Tensors[w.Parts[0]].DType, rows, cols)
	if err == nil && f == nil {
		err = fmt.Errorf("it has no form")
	}
	return f, err
}

// packedPart is the part of a packed weight as one tensor.
func (b *builder) packedPart(w *checkpoint.Packed) part {
	t := b.ix.Tensors[w.Parts[0]]
	t.Name, t.Shape, t.Form = w.Name, w.Shape, w.Form
	p := b.part(&t)
	p.packed = w
	return p
}

// unpack returns the tensors that a packed weight stays, with the rule that
// the weight has where they can be cut as it is.
func (b *builder) unpack(weight *Tensor, p *part) ([]Tensor, []part, error) {
	f, err := b.formOf(p.packed)
	if err != nil {
		return nil, nil, invalid(weight.Name, "%w", err)
	}
	stored := f.Parts()
	var tensors []Tensor
	var parts []part
	for k, at := range slices.Concat(p.packed.Parts, p.packed.Beside) {
		own := *p
		own.source, own.packed = &b.ix.Tensors[at], nil
		own.stacked = weight.Experts > 0 && len(own.source.Shape) > 1 && own.source.Shape[0] == weight.Experts
		t := b.view(&own)
		t.Rule, t.Why = Replicated, weight.Why
		if err := t.derive(b.pol.none); err != nil {
			return nil, nil, invalid(t.Name, "%w", err)
		}
		if k < len(stored) {
			b.project(&t, weight, stored[k])
		}
		tensors, parts = append(tensors, t), append(parts, own)
	}
	return tensors, parts, nil
}

// projection is how a stored part of a weight is cut: as the weight, divided by
// how many of its rows or columns an element is for.
type projection struct {
	weight *Tensor
	part   form.Part
	each   int64 // stored rows in a unit
}

// project gives a stored part the weight's rule, where every cut of the weight
// falls between its elements. Otherwise each rank holds all of it.
func (b *builder) project(t, weight *Tensor, part form.Part) {
	if weight.Rule == Replicated && weight.Experts == 0 || part.Units == 0 || t.Rows%part.Units != 0 {
		return
	}
	x := &projection{weight: weight, part: part, each: t.Rows / part.Units}
	if part.Axis == form.Whole && part.Each == 0 {
		return
	}
	cut := false
	for rank := range b.cut.tp {
		for _, s := range b.cut.byRule(weight, position{tp: rank}) {
			rows, cols, ok := x.slice(t, s)
			if !ok {
				b.plan.Straddles = append(b.plan.Straddles, Note{t.Name, fmt.Sprintf(
					"tp %d cuts %s inside what its elements stand for: each rank holds all of them", b.cut.tp, weight.Name)})
				return
			}
			cut = cut || rows.Len() < t.Rows || cols.Len() < t.Cols
		}
	}
	if cut {
		t.Rule = weight.Rule
		b.cut.projected[t.Name] = x
	}
}

// slice returns the rows and columns of a stored part that belong to a slice
// of the weight; ok is false where the slice ends inside an element.
func (x *projection) slice(t *Tensor, s Slice) (rows, cols Span, ok bool) {
	rows, cols = Span{0, t.Rows}, Span{0, t.Cols}
	along := func(a form.Axis) (Span, int64) {
		if a == form.Cols {
			return s.Cols, x.weight.Cols
		}
		return s.Rows, x.weight.Rows
	}
	ok = true
	if x.part.Axis != form.Whole {
		of, n := along(x.part.Axis)
		rows, ok = divide(of, x.part.Per, n)
		rows = Span{rows.Start * x.each, min(rows.Stop*x.each, t.Rows)}
	}
	of, n := along(x.part.Across)
	switch {
	case x.part.Each > 0:
		var fits bool
		cols, fits = divide(of, x.part.Each, n)
		ok = ok && fits && cols.Stop <= t.Cols
	case x.each > 1 && s.Cols.Len() < x.weight.Cols:
		ok = false // a row of the weight is many rows here
	}
	return rows, cols, ok
}

// divide returns a range of n in units of per, of which only the last may be
// shorter; ok is false where the range ends inside one.
func divide(s Span, per, n int64) (Span, bool) {
	ok := s.Start%per == 0 && (s.Stop%per == 0 || s.Stop == n)
	return Span{s.Start / per, (s.Stop + per - 1) / per}, ok
}

// packedSegments appends the chunks of a packed weight, each with what it needs
// of every part: whole units, so that no byte comes twice, but for what all
// rows need, and where a unit is for more rows than fit.
func (b *builder) packedSegments(tensor int) {
	t := &b.plan.Tensors[tensor]
	parts := t.Source.Parts()
	w := parts[0]
	if t.Held() {
		b.packedSegment(tensor, Span{0, t.Rows})
		return
	}
	limit, row := b.plan.Options.ChunkBytes, max(t.stored()/t.Rows, 1)
	align := w.Per
	for _, p := range parts {
		if p.Axis == form.Rows && p.Per*row <= limit {
			align = align / gcd(align, p.Per) * p.Per
		}
	}
	step := max(limit/row/align, 1) * align
	for r := int64(0); r < t.Rows; r += step {
		b.packedSegment(tensor, Span{r, min(r+step, t.Rows)})
	}
}

// packedSegment appends the chunk of some rows, all columns.
func (b *builder) packedSegment(tensor int, rows Span) {
	t := &b.plan.Tensors[tensor]
	runs := t.window(rows)
	c := Chunk{File: t.File, Offset: runs[0].Offset, Bytes: runs[0].Bytes, Also: runs[1:]}
	c.Segments = []Segment{{Tensor: tensor, Bytes: c.Bytes, Rows: rows, Cols: Span{0, t.Cols}}}
	b.ranked = Span{}
	b.plan.Chunks = append(b.plan.Chunks, c)
}

// window returns what some rows, all columns, need of each part.
func (t *Tensor) window(rows Span) []Run {
	runs := t.Runs()
	for i, p := range t.Source.Parts() {
		units := p.Range(form.Range(rows), form.Range{Stop: t.Cols})
		runs[i].Offset += units.Start * p.Unit
		runs[i].Bytes = units.Len() * p.Unit
	}
	return runs
}

// Runs returns where all parts of a tensor lie.
func (t *Tensor) Runs() []Run {
	return append([]Run{{t.File, t.Offset, t.Bytes}}, t.Parts...)
}
