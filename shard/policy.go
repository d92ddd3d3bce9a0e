package shard

import (
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// policy decides what each tensor becomes. It looks at the tensor and the
// scheme only, never at the layout.
type policy struct {
	scheme   quant.Scheme // the job's
	target   quant.Target
	keep     bool  // the originals too
	maxRow   int64 // stored bytes of the longest row that is transformed as a whole
	none     quant.Scheme
	f16, f32 quant.Scheme // what a pure scheme leaves
}

func newPolicy(job quant.Scheme, o Options) (*policy, error) {
	p := &policy{scheme: job, maxRow: o.ChunkBytes, keep: o.KeepOriginal, target: job.Target()}
	for _, d := range []struct {
		name string
		to   *quant.Scheme
	}{{"none", &p.none}, {"f16", &p.f16}, {"f32", &p.f32}} {
		s, err := quant.Parse(d.name)
		if err != nil {
			return nil, err
		}
		*d.to = s
	}
	return p, nil
}

// apply sets the tensor's scheme and layout. isLinear says that it is the
// weight of a linear layer. The reason is "" unless the tensor was meant to
// get the job's scheme and could not.
func (p *policy) apply(t *Tensor, isLinear bool) (reason string, err error) {
	dims := len(t.Shape)
	switch {
	case !t.DType.Float(), t.Rows == 0, t.Cols == 0, p.target == quant.Nothing:
	case p.target == quant.Matrices && dims < 2:
		if p.set(t, p.f32) == nil {
			return "", nil
		}
	case p.target == quant.Matrices && dims > 2:
		reason = fmt.Sprintf("%s takes matrices, this has %d dimensions", p.scheme.Name(), dims)
	case p.target == quant.Linear && (!isLinear || dims != 2):
	default:
		err := p.set(t, p.scheme)
		if err == nil {
			return "", nil
		}
		reason = cause(err)
		if p.target == quant.Matrices && p.set(t, p.f16) == nil {
			return reason, nil
		}
	}
	return reason, p.set(t, p.none)
}

// set gives the tensor a scheme, or says why that cannot be.
func (p *policy) set(t *Tensor, s quant.Scheme) error {
	l, err := s.Layout(t.DType, t.Cols)
	if err != nil {
		return err
	}
	if row := rowBytes(t); wholeRow(l) && row > p.maxRow {
		return fmt.Errorf("row longer than a chunk: %s needs whole rows, and one has %d bytes", s.Name(), row)
	}
	if p.keep && l.Planes[0].DType != t.DType {
		s = quant.WithOriginal(s)
		if l, err = s.Layout(t.DType, t.Cols); err != nil {
			return err
		}
	}
	t.Scheme, t.Layout = s.Name(), l
	return nil
}

// cause returns why a scheme refused, without what it was asked.
func cause(err error) string {
	if e := (*recovery.Error)(nil); errors.As(err, &e) && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// rowBytes returns the stored bytes of one row, which are whole.
func rowBytes(t *Tensor) int64 {
	elements, bytes := t.DType.Block()
	return t.Cols / elements * bytes
}

// wholeRow says that rows must not be encoded in parts.
func wholeRow(l quant.Layout) bool { return l.Scope != quant.Block }

// cutAlign returns the number of columns between which every plane of an
// encoded row can be cut.
func cutAlign(l quant.Layout) int64 {
	a := max(l.Align, 1)
	for _, p := range l.Planes {
		if p.Cols > 0 {
			a = a / gcd(a, p.Cols) * p.Cols
		}
	}
	return a
}
