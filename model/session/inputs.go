package session

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/recovery"
)

// CheckInputs reports, with class usage and in one line, what is wrong with
// the inputs of a run: a name that the graph does not have, or has twice here,
// another type or shape than it takes, one that is missing.
func CheckInputs(g *onnx.Graph, inputs []ort.Tensor) error {
	fed := map[string]bool{}
	axes := map[string]int64{} // sizes of named axes
	for _, t := range inputs {
		v, err := Find(g, t.Name)
		if err != nil {
			return err
		}
		if fed[t.Name] {
			return recovery.Errorf(recovery.Usage, "run: input %q is given twice", t.Name)
		}
		fed[t.Name] = true
		if err := fits(v, t, axes); err != nil {
			return err
		}
	}
	var missing []string
	for _, v := range g.Feeds() {
		if !fed[v.Name] {
			missing = append(missing, Describe(v))
		}
	}
	if len(missing) > 0 {
		return recovery.Errorf(recovery.Usage, "run: the graph wants inputs that are not given: %s", strings.Join(missing, "; "))
	}
	return nil
}

// Find returns the graph's input of that name, or says which there are.
func Find(g *onnx.Graph, name string) (onnx.Value, error) {
	i := slices.IndexFunc(g.Inputs, func(v onnx.Value) bool { return v.Name == name })
	if i >= 0 {
		return g.Inputs[i], nil
	}
	var names []string
	for _, v := range g.Feeds() {
		names = append(names, Describe(v))
	}
	return onnx.Value{}, recovery.Errorf(recovery.Usage, "run: the graph has no input %q; its inputs: %s", name, strings.Join(names, "; "))
}

// fits compares a tensor with what the graph takes. axes are the sizes that
// named axes have in the inputs before.
func fits(v onnx.Value, t ort.Tensor, axes map[string]int64) error {
	wrong := func(why string) error {
		return recovery.Errorf(recovery.Usage, "run: input %q is %s %v, %s: want %s", v.Name, t.Type, t.Shape, why, Describe(v))
	}
	if v.Kind != onnx.Numbers || t.Type != v.DType {
		return wrong("another type")
	}
	if !v.Ranked {
		return nil
	}
	if len(t.Shape) != len(v.Shape) {
		return wrong("another number of dimensions")
	}
	for i, d := range v.Shape {
		if d.Size >= 0 && d.Size != t.Shape[i] {
			return wrong("dimension " + strconv.Itoa(i) + " differs")
		}
		if d.Size >= 0 || d.Name == "" {
			continue
		}
		if n, ok := axes[d.Name]; ok && n != t.Shape[i] {
			return wrong(fmt.Sprintf("axis %s has %d elsewhere", d.Name, n))
		}
		axes[d.Name] = t.Shape[i]
	}
	return nil
}

// Describe writes a value for people: "ids I64 [batch,128]".
func Describe(v onnx.Value) string {
	switch {
	case v.Kind == onnx.Other:
		return v.Name + " (no tensor)"
	case v.Kind == onnx.Texts:
		return v.Name + " STRING " + ShapeOf(v)
	}
	return v.Name + " " + v.DType.String() + " " + ShapeOf(v)
}

// ShapeOf writes the shape of a value: "[batch,128]", "?" for a dimension
// without a name, "[…]" where nothing is known of it.
func ShapeOf(v onnx.Value) string {
	if !v.Ranked {
		return "[…]"
	}
	dims := make([]string, len(v.Shape))
	for i, d := range v.Shape {
		switch {
		case d.Size >= 0:
			dims[i] = strconv.FormatInt(d.Size, 10)
		case d.Name != "":
			dims[i] = d.Name
		default:
			dims[i] = "?"
		}
	}
	return "[" + strings.Join(dims, ",") + "]"
}
