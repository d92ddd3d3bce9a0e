package shard

import (
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
)

// derive fills in what follows from the stored type, the form and a scheme. It
// fails where the tensor cannot become this scheme.
func (t *Tensor) derive(s quant.Scheme) error {
	f, err := form.Open(t.Form, t.DType, t.Rows, t.Cols)
	if err != nil {
		return err
	}
	from := t.DType
	if f != nil {
		from = f.Type()
	}
	if s.Target() != quant.Nothing && !from.Float() && quant.Decodes(from) {
		from = dtype.F32
	}
	l, err := s.Layout(from, t.Cols)
	if err != nil {
		return err
	}
	t.Scheme, t.Layout, t.From, t.Source = s.Name(), l, from, f
	return nil
}

// packed says that the tensor is stored in several parts.
func (t *Tensor) packed() bool { return len(t.Parts) > 0 }

// stored returns the bytes of all parts.
func (t *Tensor) stored() int64 {
	n := t.Bytes
	for _, p := range t.Parts {
		n += p.Bytes
	}
	return n
}

// readRow returns the bytes that must be read for a row, as far as they lie
// together.
func (t *Tensor) readRow() int64 {
	if w := t.weight(); t.packed() {
		return w.Unit
	}
	return rowBytes(t)
}

// Held says that every row needs all of the stored bytes: columns come one
// after the other.
func (t *Tensor) Held() bool { return t.weight().Axis == form.Cols }

// Together returns how many rows are stored together: chunks, ranks and reads
// end between them.
func (t *Tensor) Together() int64 {
	if w := t.weight(); w.Axis == form.Rows {
		return w.Per
	}
	return 1
}

// weight returns how the stored bytes of the tensor's weight run.
func (t *Tensor) weight() form.Part {
	if t.Source != nil {
		return t.Source.Parts()[0]
	}
	return form.Part{Axis: form.Rows, Per: 1, Unit: rowBytes(t), Units: t.Rows}
}
