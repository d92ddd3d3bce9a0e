package model

import (
	"fmt"
	"slices"

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
	whole  *shard.Part // where it lies whole in one arena, else nil
}

func newTensor(m *Model, i int) *Tensor {
	t := &Tensor{m: m, index: i, plan: &m.parts.Plan.Tensors[i], scheme: m.schemes[i]}
	if cover := m.parts.Plan.Cover(i); len(cover) == 1 {
		if s := cover[0].Slice; s.Rows.Len() == t.plan.Rows && s.Held.Len() == t.plan.Cols {
			t.whole = &cover[0]
		}
	}
	return t
}

// Name returns the full name.
func (t *Tensor) Name() string { return t.plan.Name }

// Shape returns the dimensions, outermost first.
func (t *Tensor) Shape() []int64 { return slices.Clone(t.plan.Shape) }

// Scheme returns how the tensor is kept, such as "none" or "q8_0".
func (t *Tensor) Scheme() string { return t.plan.Scheme }

// DType returns the element type of Bytes: of the tensor itself where it was
// kept or cast, I8 of int8, U8 of blocks.
func (t *Tensor) DType() dtype.Type { return t.plan.Layout.Planes[0].DType }

// Bytes returns the tensor's first plane, row-major and little-endian: its
// elements, or its blocks. It is a view into the arena where the tensor lies
// whole in one rank, to be read only and not after the model is closed; else
// a copy, joined from the ranks.
func (t *Tensor) Bytes() ([]byte, error) { return t.Plane(0) }

// Original returns the elements as they were stored, where the load was asked
// to keep them or did not change them, as Bytes does, and their type. Else it
// is of class not_found.
func (t *Tensor) Original() ([]byte, dtype.Type, error) {
	last := t.Planes() - 1
	if !quant.HasOriginal(t.scheme) && t.DType() != t.plan.DType {
		return nil, dtype.Invalid, &recovery.Error{Class: recovery.NotFound, Op: "find original", Tensor: t.plan.Name,
			Err: fmt.Errorf("it was turned into %s and not kept", t.plan.Scheme), Hint: "load with the originals kept"}
	}
	b, err := t.Plane(last)
	return b, t.plan.DType, err
}

// Planes returns how many planes the tensor has: 2 for int8, whose second is
// its scales, F32 by row. The original, where it is kept, is the last.
func (t *Tensor) Planes() int { return len(t.plan.Layout.Planes) }

// Plane returns a plane as Bytes does.
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
	if t.whole != nil {
		host := t.m.parts.Arenas[t.whole.Rank].Host()
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

// Float32 decodes the tensor, row-major. A tensor that is not made of numbers
// that can be cast to F32 is of class unsupported.
func (t *Tensor) Float32() ([]float32, error) {
	if err := t.checkFloat(); err != nil {
		return nil, err
	}
	out := make([]float32, t.plan.Rows*t.plan.Cols)
	return out, t.each(func(rows shard.Span, planes [][]byte) {
		t.decode(out[rows.Start*t.plan.Cols:rows.Stop*t.plan.Cols], planes, rows)
	})
}

// As returns the tensor's values in another float type, row-major and
// little-endian: F32, F16 or BF16, rounded to nearest even. Where it is kept
// in that type already this is Bytes.
func (t *Tensor) As(to dtype.Type) ([]byte, error) {
	if err := t.checkFloat(); err != nil {
		return nil, err
	}
	if t.DType() == to && to.Float() {
		return t.Bytes()
	}
	var cast quant.Scheme
	for name, typ := range map[string]dtype.Type{"f32": dtype.F32, "f16": dtype.F16, "bf16": dtype.BF16} {
		if typ == to {
			var err error
			if cast, err = quant.Parse(name); err != nil {
				return nil, err
			}
		}
	}
	if cast == nil {
		return nil, recovery.Errorf(recovery.Unsupported, "model: tensor %q: no cast to %s: want F32, F16 or BF16", t.plan.Name, to)
	}
	size, cols := int64(to.Size()), t.plan.Cols
	out := make([]byte, t.plan.Rows*cols*size)
	values := make([]float32, t.step()*cols)
	return out, t.each(func(rows shard.Span, planes [][]byte) {
		part := values[:rows.Len()*cols]
		t.decode(part, planes, rows)
		dst := [][]byte{out[rows.Start*cols*size : rows.Stop*cols*size]}
		cast.Encode(dst, littleEndian(part), dtype.F32, int(rows.Len()), int(cols))
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
	t.scheme.Decode(dst, planes, t.plan.DType, int(rows.Len()), int(t.plan.Cols))
}

func (t *Tensor) checkFloat() error {
	if !t.plan.DType.Float() {
		return &recovery.Error{Class: recovery.Unsupported, Op: "decode", Tensor: t.plan.Name,
			Err: fmt.Errorf("elements of type %s are not numbers that can be cast to F32", t.plan.DType)}
	}
	return nil
}
