package onnx

import (
	"context"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Graph is how a model is run: what goes in and comes out, and which tensors
// are its weights.
type Graph struct {
	// Inputs are the graph's, in its order. One that an initializer gives a
	// value to need not be fed.
	Inputs  []Value
	Outputs []Value
	Weights []Weight // the header's tensors, in its order
	NBits   bool     // a node is ONNX Runtime's MatMulNBits

	size int64 // of the model's file
}

// Value is an input or an output of a graph.
type Value struct {
	Name    string
	Kind    Kind
	DType   dtype.Type // Invalid for texts, and for what is no tensor
	Ranked  bool       // Shape is known
	Shape   []Dim
	Default bool // an initializer gives an input its value
}

// Kind is what a value is.
type Kind string

// The kinds of values. Texts are tensors of strings; Other is a sequence, a
// map, a sparse tensor or an optional one.
const (
	Numbers Kind = "tensor"
	Texts   Kind = "strings"
	Other   Kind = "other"
)

// Dim is a dimension: its size, or, where that is below zero, that it is free,
// with the name of the axis where it has one.
type Dim struct {
	Size int64
	Name string
}

// Weight is a tensor of a model and its place in the graph.
type Weight struct {
	Tensor
	Embedded bool // Strip leaves its bytes in the model

	at place
}

// Embedded tensors are those that must be in the model, since ONNX Runtime
// reads them while it makes a session or would mistake one for another:
//
//   - small ones, and lists of integers that a node may have as its shape,
//     axes, pads or splits;
//   - those of functions, whose names are others once functions are inlined;
//   - those whose name several graphs use, also for a Constant of another kind.
const (
	smallBytes   = 1 << 10 // pads of 64 dimensions
	integerBytes = 64 << 10
)

// span is a part of a file.
type span struct{ off, stop int64 }

// place is a tensor's place in the graph.
type place struct {
	message  span   // its TensorProto in the model's file
	name     string // in its graph
	kind     uint64 // TensorProto.DataType
	function bool
	graph    int32 // its number
}

// ReadGraph reads how the model in an open file is run. Errors are Read's.
func ReadGraph(ctx context.Context, r source.Reader) (*Graph, error) {
	p := newParser(source.ReaderAt(ctx, r), r.File().Size)
	p.whole = true
	if err := p.parse(); err != nil {
		return nil, header.InFile(err, r.File().Name)
	}
	g := &Graph{Inputs: p.inputs, Outputs: p.outputs, NBits: p.nbits, Weights: make([]Weight, len(p.places)), size: p.size}
	uses := map[string]int{} // of a name
	for _, at := range p.places {
		uses[at.name]++
	}
	for _, name := range p.settings { // ONNX Runtime makes tensors of them
		uses[name]++
	}
	own := map[string]bool{} // names of the model's own graph
	for i, t := range p.h.Tensors {
		w := Weight{Tensor: t, at: p.places[i]}
		w.Embedded = w.at.function || uses[w.at.name] > 1 || small(t)
		g.Weights[i] = w
		own[w.at.name] = own[w.at.name] || w.at.graph == 0
	}
	for i := range g.Inputs {
		g.Inputs[i].Default = own[g.Inputs[i].Name]
	}
	return g, nil
}

func small(t Tensor) bool {
	integers := t.DType == dtype.I64 || t.DType == dtype.I32
	return t.Bytes <= smallBytes || integers && len(t.Shape) == 1 && t.Bytes <= integerBytes
}

// GraphName returns the weight's name in its graph.
func (w *Weight) GraphName() string { return w.at.name }

// Feeds returns the inputs that must be fed.
func (g *Graph) Feeds() []Value {
	return slices.DeleteFunc(slices.Clone(g.Inputs), func(v Value) bool { return v.Default })
}

// Fields of ValueInfoProto, TypeProto, TypeProto.Tensor and TensorShapeProto.
const (
	valueName field = 1
	valueType field = 2

	typeTensor field = 1

	elementKind  field = 1
	elementShape field = 2

	shapeDim field = 1

	dimValue field = 1
	dimName  field = 2
)

// value reads a ValueInfoProto and adds it to a list.
func (p *parser) value(stop int64, list *[]Value) error {
	if !p.whole {
		return nil
	}
	if len(*list) == MaxTensors {
		return recovery.Errorf(recovery.Unsupported, "more than %d inputs or outputs", MaxTensors)
	}
	x := Value{Kind: Other}
	err := p.message(stop, func(v value) (err error) {
		switch {
		case !v.bytes():
		case v.field == valueName:
			x.Name, err = p.text(v.stop)
		case v.field == valueType:
			err = p.message(v.stop, func(v value) error {
				if v.field != typeTensor || !v.bytes() {
					return nil
				}
				return p.tensorType(v.stop, &x)
			})
		}
		return err
	})
	*list = append(*list, x)
	return err
}

// tensorType reads a TypeProto.Tensor.
func (p *parser) tensorType(stop int64, x *Value) error {
	x.Kind = Numbers
	return p.message(stop, func(v value) error {
		switch {
		case v.field == elementKind && v.number() && v.num == stringType:
			x.Kind = Texts
		case v.field == elementKind && v.number() && v.num < uint64(len(types)):
			x.DType = types[v.num].dtype
		case v.field == elementShape && v.bytes():
			x.Ranked = true
			return p.message(v.stop, func(v value) error {
				if v.field != shapeDim || !v.bytes() {
					return nil
				}
				return p.dim(v.stop, x)
			})
		}
		return nil
	})
}

// dim reads a TensorShapeProto.Dimension.
func (p *parser) dim(stop int64, x *Value) error {
	if len(x.Shape) == MaxDimensions {
		return recovery.Errorf(recovery.Unsupported, "input or output %q has more than %d dimensions", x.Name, MaxDimensions)
	}
	d := Dim{Size: -1}
	err := p.message(stop, func(v value) (err error) {
		switch {
		case v.field == dimValue && v.number():
			d.Size = max(int64(v.num), -1)
		case v.field == dimName && v.bytes():
			d.Name, err = p.text(v.stop)
		}
		return err
	})
	x.Shape = append(x.Shape, d)
	return err
}
