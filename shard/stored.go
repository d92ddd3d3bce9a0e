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

// Together returns how many rows are stored together: chunks, ranks and reads
// end between them.
func (t *Tensor) Together() int64 { return t.weight().Per }

// weight returns how the stored bytes of the tensor's weight run.
func (t *Tensor) weight() form.Part {
	if t.Source != nil {
		return t.Source.Parts()[0]
	}
	return form.Part{Axis: form.Rows, Per: 1, Unit: rowBytes(t), Units: t.Rows}
}
