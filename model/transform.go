package model

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Transform changes how Vars shows the tensors that it matches. What is placed
// stays as it is: values are worked out when they are asked for. Of several
// transforms that match a tensor the first counts.
type Transform struct {
	// Match is a regular expression that must match the whole stored name.
	Match string
	// Rename is the name to show, with $1 for Match's first group and so on;
	// "" keeps the name.
	Rename string
	// DType is F32, F16 or BF16, or Invalid for the type that is kept; F32
	// where that is no float type and values change.
	DType dtype.Type
	// Scale multiplies every value, in float32. 0 counts as 1.
	Scale float32
	// Transpose swaps the two dimensions of a matrix.
	Transpose bool
}

// values reports whether x does more than rename.
func (x *Transform) values() bool {
	return x.DType != dtype.Invalid || x.scale() != 1 || x.Transpose
}

func (x *Transform) scale() float32 {
	if x.Scale == 0 {
		return 1
	}
	return x.Scale
}

// CheckTransforms reports, with class usage, transforms that a plan's tensors
// cannot be shown by: a malformed pattern, a cast to another type than F32,
// F16 and BF16, values that are no numbers, a tensor to transpose that is no
// matrix, two tensors of one name.
func CheckTransforms(p *shard.Plan, list []Transform) error {
	_, err := views(p, list)
	return err
}

// view is how a tensor is shown.
type view struct {
	name string
	as   *Transform // nil: its values are shown as they are kept
}

// views returns the view of each tensor of a plan.
func views(p *shard.Plan, list []Transform) ([]view, error) {
	patterns := make([]*regexp.Regexp, len(list))
	for i, x := range list {
		var err error
		if patterns[i], err = regexp.Compile("^(?:" + x.Match + ")$"); err != nil {
			return nil, recovery.Errorf(recovery.Usage, "transform %d: %w", i, err)
		}
		if _, ok := castSchemes[x.DType]; !ok && x.DType != dtype.Invalid {
			return nil, recovery.Errorf(recovery.Usage, "transform %d: no cast to %s: want F32, F16 or BF16", i, x.DType)
		}
	}
	out := make([]view, len(p.Tensors))
	taken := make(map[string]string, len(p.Tensors))
	for i := range p.Tensors {
		t := &p.Tensors[i]
		v, err := viewOf(t, list, patterns)
		if err == nil && taken[v.name] != "" {
			err = fmt.Errorf("it would be shown as %q, as %q is", v.name, taken[v.name])
		}
		if err != nil {
			return nil, &recovery.Error{Class: recovery.Usage, Op: "transform", Tensor: t.Name, Err: err}
		}
		out[i], taken[v.name] = v, t.Name
	}
	return out, nil
}

func viewOf(t *shard.Tensor, list []Transform, patterns []*regexp.Regexp) (view, error) {
	v := view{name: t.Name}
	i := slices.IndexFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(t.Name) })
	if i < 0 {
		return v, nil
	}
	x := &list[i]
	if x.Rename != "" {
		v.name = patterns[i].ReplaceAllString(t.Name, x.Rename)
	}
	if !x.values() {
		return v, nil
	}
	switch {
	case !quant.Decodes(t.From):
		return v, fmt.Errorf("its elements of type %s are not numbers that can be cast", t.From)
	case x.Transpose && len(t.Shape) != 2:
		return v, fmt.Errorf("its shape %v is not a matrix's, which transposing takes", t.Shape)
	}
	v.as = x
	return v, nil
}

// castSchemes are the schemes that turn values into a float type.
var castSchemes = map[dtype.Type]string{dtype.F32: "f32", dtype.F16: "f16", dtype.BF16: "bf16"}

// change scales and transposes rows × cols values, row-major, in place where
// it can.
func (x *Transform) change(values []float32, rows, cols int64) []float32 {
	if s := x.scale(); s != 1 {
		for i, v := range values {
			values[i] = float32(v * s)
		}
	}
	if !x.Transpose {
		return values
	}
	out := make([]float32, len(values))
	for r := range rows {
		for c := range cols {
			out[c*rows+r] = values[r*cols+c]
		}
	}
	return out
}
