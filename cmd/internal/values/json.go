package values

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
)

// fromJSON makes a tensor of values.
func fromJSON(v onnx.Value, b []byte, a *axes) (ort.Tensor, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return ort.Tensor{}, usagef("%w", err)
	}
	shape := nesting(value)
	flat, err := flatten(nil, value, shape)
	if err != nil {
		return ort.Tensor{}, usagef("%w", err)
	}
	if v.Ranked && len(shape) != len(v.Shape) && len(shape) < 2 {
		if shape, err = a.shape(v); err != nil {
			return ort.Tensor{}, err
		}
	}
	t, err := newTensor(v, shape)
	if err != nil {
		return t, err
	}
	n, err := dtype.Elements(shape)
	if err != nil {
		return t, err
	}
	fill := nesting(value) == nil
	if !fill && int64(len(flat)) != n {
		return t, usagef("%d values for the shape %v", len(flat), shape)
	}
	for i := range int(n) {
		s := flat[0]
		if !fill {
			s = flat[i]
		}
		if err := put(t.Type, t.Data, i, s); err != nil {
			return t, usagef("value %d: %w", i, err)
		}
	}
	return t, nil
}

// nesting is the shape that an array's first elements tell, nil of a value.
func nesting(value any) (shape []int64) {
	for {
		list, ok := value.([]any)
		if !ok {
			return shape
		}
		shape = append(shape, int64(len(list)))
		if len(list) == 0 {
			return shape
		}
		value = list[0]
	}
}

var errUneven = errors.New("the array's rows differ in length or depth")

// flatten appends the values of an array of the given shape.
func flatten(out []string, value any, shape []int64) ([]string, error) {
	switch x := value.(type) {
	case []any:
		if len(shape) == 0 || int64(len(x)) != shape[0] {
			return nil, errUneven
		}
		for _, e := range x {
			var err error
			if out, err = flatten(out, e, shape[1:]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case json.Number:
		out = append(out, x.String())
	case bool:
		out = append(out, strconv.FormatBool(x))
	case string: // "NaN", "Inf", which JSON has no numbers for
		out = append(out, x)
	default:
		return nil, fmt.Errorf("%v is no number", x)
	}
	if len(shape) > 0 {
		return nil, errUneven
	}
	return out, nil
}
