package model

import (
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Tensor is one tensor of a model, whole, however it is spread over ranks.
// Nothing is copied or decoded before it is asked for.
type Tensor struct {
	m      *Model
	index  int
	plan   *shard.Tensor
	scheme quant.Scheme
	view   view
	whole  *shard.Part // where it lies whole in one arena, else nil
}

func newTensor(m *Model, i int) *Tensor {
	t := &Tensor{m: m, index: i, plan: &m.parts.Plan.Tensors[i], scheme: m.schemes[i], view: m.views[i]}
	if cover := m.parts.Plan.Cover(i); len(cover) == 1 {
		if s := cover[0].Slice; s.Rows.Len() == t.plan.Rows && s.Held.Len() == t.plan.Cols {
			t.whole = &cover[0]
		}
	}
	return t
}

// Name returns the full name, as it is shown.
func (t *Tensor) Name() string { return t.view.name }

// Shape returns the dimensions, outermost first.
func (t *Tensor) Shape() []int64 {
	shape := slices.Clone(t.plan.Shape)
	if t.view.as != nil && t.view.as.Transpose {
		slices.Reverse(shape)
	}
	return shape
}

// Scheme returns how the tensor is kept, such as "none" or "q8_0".
func (t *Tensor) Scheme() string { return t.plan.Scheme }

// DType returns the element type of Bytes: of the tensor itself where it was
// kept or cast, I8 of int8, U8 of blocks; of the transform where one changes
// its values.
func (t *Tensor) DType() dtype.Type {
	kept := t.plan.Layout.Planes[0].DType
	switch x := t.view.as; {
	case x == nil:
		return kept
	case x.DType != dtype.Invalid:
		return x.DType
	case castSchemes[kept] != "":
		return kept
	}
	return dtype.F32
}

// Bytes returns the tensor's first plane, row-major and little-endian: its
// elements, or its blocks. It is a view into the arena where the tensor lies
// whole in one rank, to be read only and not after the model is closed; else
// a copy, joined from the ranks or worked out by a transform.
func (t *Tensor) Bytes() ([]byte, error) {
	if t.view.as != nil {
		return t.As(t.DType())
	}
	return t.Plane(0)
}

// Place returns where Bytes lie: the arena and the offset in it; false where the
// tensor does not lie whole in one, or a transform changes it.
func (t *Tensor) Place() (a device.Arena, off int64, ok bool) {
	if t.whole == nil || t.view.as != nil {
		return nil, 0, false
	}
	return t.m.parts.Arenas[t.whole.Rank], t.whole.Slice.Planes[0].Offset, true
}

// Original returns the elements as they were stored, in Hugging Face's order of
// rows, where the load was asked to keep them or did not change them, as Bytes
// does, and their type. Else it is of class not_found: blocks and packed weights
// that were decoded are not kept.
func (t *Tensor) Original() ([]byte, dtype.Type, error) {
	last := t.Planes() - 1
	if !quant.HasOriginal(t.scheme) && (len(t.plan.Parts) > 0 || t.plan.Layout.Planes[0].DType != t.plan.DType) {
		return nil, dtype.Invalid, &recovery.Error{Class: recovery.NotFound, Op: "find original", Tensor: t.plan.Name,
			Err: fmt.Errorf("it was turned into %s and not kept", t.plan.Scheme), Hint: "load with the originals kept"}
	}
	b, err := t.Plane(last)
	return b, t.plan.DType, err
}

// Planes returns how many planes the tensor has: 2 for int8, whose second is
// its scales, F32 by row. The original, where it is kept, is the last.
func (t *Tensor) Planes() int { return len(t.plan.Layout.Planes) }

// Plane returns a plane as it is kept, whatever transform there is: a view
// where the tensor lies whole in one rank, else a copy.
func (t *Tensor) Plane(i int) ([]byte, error) {
	if i < 0 || i >= t.Planes() {
		return nil, recovery.Errorf(recovery.Usage, "model: tensor %q has no plane %d", t.plan.Name, i)
	}
	all, err := t.rows(shard.Span{Stop: t.plan.Rows})
	if err != nil {
		return nil, err
	}
	return all[i], nil
}

// rows returns rows of all planes: views where the tensor lies whole in one
// rank, else copies.
func (t *Tensor) rows(rows shard.Span) ([][]byte, error) {
	planes := t.plan.Layout.Planes
	out := make([][]byte, len(planes))
	var host []byte
	if t.whole != nil {
		host = t.m.parts.Arenas[t.whole.Rank].Host()
	}
	if host != nil {
		for i, p := range t.whole.Slice.Planes {
			start, stop := p.Offset+rows.Start*p.RowBytes, p.Offset+rows.Stop*p.RowBytes
			out[i] = host[start:stop:stop]
		}
		return out, nil
	}
	for i, p := range planes {
		out[i] = make([]byte, rows.Len()*p.RowBytes(t.plan.Cols))
	}
	if err := t.m.join(t.index, rows, out); err != nil {
		return nil, err
	}
	return out, nil
}

// stepValues is how many values are decoded or cast at once.
const stepValues = 1 << 20

// Float32 decodes the tensor, row-major, and applies its transform. A tensor
// that is not made of numbers that can be cast to F32 is of class unsupported.
func (t *Tensor) Float32() ([]float32, error) {
	if err := t.checkFloat(); err != nil {
		return nil, err
	}
	out := make([]float32, t.plan.Rows*t.plan.Cols)
	err := t.each(func(rows shard.Span, planes [][]byte) {
		t.decode(out[rows.Start*t.plan.Cols:rows.Stop*t.plan.Cols], planes, rows)
	})
	if err == nil && t.view.as != nil {
		out = t.view.as.change(out, t.plan.Rows, t.plan.Cols)
	}
	return out, err
}

// As returns the tensor's values in another float type, row-major and
// little-endian: F32, F16 or BF16, rounded to nearest even. Where it is kept
// in that type already and no transform changes it this is Bytes.
func (t *Tensor) As(to dtype.Type) ([]byte, error) {
	if err := t.checkFloat(); err != nil {
		return nil, err
	}
	if castSchemes[to] == "" {
		return nil, recovery.Errorf(recovery.Unsupported, "model: tensor %q: no cast to %s: want F32, F16 or BF16", t.Name(), to)
	}
	if t.view.as == nil && t.DType() == to {
		return t.Bytes()
	}
	s, err := quant.Parse(castSchemes[to])
	if err != nil {
		return nil, err
	}
	size, cols := int64(to.Size()), t.plan.Cols
	out := make([]byte, t.plan.Rows*cols*size)
	if t.view.as != nil {
		values, err := t.Float32()
		if err != nil {
			return nil, err
		}
		s.Encode([][]byte{out}, littleEndian(values), dtype.F32, 1, len(values))
		return out, nil
	}
	values := make([]float32, t.step()*cols)
	return out, t.each(func(rows shard.Span, planes [][]byte) {
		part := values[:rows.Len()*cols]
		t.decode(part, planes, rows)
		s.Encode([][]byte{out[rows.Start*cols*size : rows.Stop*cols*size]}, littleEndian(part), dtype.F32, int(rows.Len()), int(cols))
	})
}

// step returns how many rows are worked on at once.
func (t *Tensor) step() int64 {
	return min(max(stepValues/max(t.plan.Cols, 1), 1), max(t.plan.Rows, 1))
}

// each calls f for all rows, some at a time.
func (t *Tensor) each(f func(rows shard.Span, planes [][]byte)) error {
	step := t.step()
	for at := int64(0); at < t.plan.Rows; at += step {
		rows := shard.Span{Start: at, Stop: min(at+step, t.plan.Rows)}
		planes, err := t.rows(rows)
		if err != nil {
			return err
		}
		f(rows, planes)
	}
	return nil
}

func (t *Tensor) decode(dst []float32, planes [][]byte, rows shard.Span) {
	t.scheme.Decode(dst, planes, t.plan.From, int(rows.Len()), int(t.plan.Cols))
}

func (t *Tensor) checkFloat() error {
	if !quant.Decodes(t.plan.From) {
		return &recovery.Error{Class: recovery.Unsupported, Op: "decode", Tensor: t.plan.Name,
			Err: fmt.Errorf("elements of type %s are not numbers that can be cast to F32", t.plan.From)}
	}
	return nil
}
