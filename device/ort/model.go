package ort

import (
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/dtype"
)

// The versions that models here are written in: ONNX IR 10, operator set 21.
const (
	irVersion = 10
	opset     = 21
)

// Initializers are said to lie in an empty file, beyond its end: whoever reads
// one from there, and not from the memory that it is given, fails.
const (
	placeholder       = "weights"
	placeholderOffset = 1 << 50
)

// microsoft is the domain of ONNX Runtime's own operators.
const microsoft = "com.microsoft"

// elementType is TensorProto.DataType of what a tensor of ONNX Runtime may
// hold; the C API has the same numbers for these. Of the types of 2 bits it has
// others, and no complex or F8_E8M0 ones.
var elementType = map[dtype.Type]uint64{dtype.F32: 1, dtype.U8: 2, dtype.I8: 3, dtype.U16: 4, dtype.I16: 5, dtype.I32: 6, dtype.I64: 7,
	dtype.Bool: 9, dtype.F16: 10, dtype.F64: 11, dtype.U32: 12, dtype.U64: 13, dtype.BF16: 16,
	dtype.F8E4M3: 17, dtype.F8E4M3FNUZ: 18, dtype.F8E5M2: 19, dtype.F8E5M2FNUZ: 20, dtype.U4: 21, dtype.I4: 22,
	dtype.F4: 23}

// Holds reports whether a tensor of ONNX Runtime may have elements of type t.
func Holds(t dtype.Type) bool { return elementType[t] != 0 }

// typeOf is the inverse of elementType.
func typeOf(element uint64) dtype.Type {
	for t, e := range elementType {
		if e == element {
			return t
		}
	}
	return dtype.Invalid
}

// model is a graph in the making. Field numbers below are those of onnx.proto
// (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
type model struct {
	inputs, outputs []value
	external        []external
	nodes           []node
	prepack         bool // let kernels pack copies of their weights
}

// value is a named tensor with its shape.
type value struct {
	name  string
	typ   dtype.Type
	shape []int64
}

// external is an initializer whose bytes are data, given at session creation,
// and not in the model.
type external struct {
	value
	data []byte
}

type node struct {
	op         string
	domain     string // "" is ONNX's own
	inputs     []string
	output     string
	attributes []attribute
}

// attribute is an integer attribute.
type attribute struct {
	name string
	i    int64
}

func (g *model) add(op string, inputs []string, output string, attributes ...attribute) {
	g.nodes = append(g.nodes, node{op: op, inputs: inputs, output: output, attributes: attributes})
}

// cast adds a cast of the named value to F32 and returns its output's name.
func (g *model) cast(name string) string {
	out := name + ".f32"
	g.add("Cast", []string{name}, out, attribute{"to", int64(elementType[dtype.F32])})
	return out
}

// session is what a session of g is made of. It works in its caller's thread:
// several loads check at once.
func (g *model) session() Model {
	m := Model{Proto: g.marshal(), Placeholder: placeholder, Prepack: g.prepack, Threads: 1}
	for _, e := range g.external {
		m.Weights = append(m.Weights, Tensor{Name: e.name, Type: e.typ, Shape: e.shape, Data: e.data})
	}
	for _, v := range g.inputs {
		m.Inputs = append(m.Inputs, v.name)
	}
	for _, v := range g.outputs {
		m.Outputs = append(m.Outputs, v.name)
	}
	return m
}

// marshal writes a ModelProto.
func (g *model) marshal() []byte {
	var graph, m message
	for _, n := range g.nodes {
		graph.message(1, n.marshal())
	}
	graph.text(2, "gantry")
	for _, e := range g.external {
		graph.message(5, e.marshal())
	}
	for _, v := range g.inputs {
		graph.message(11, v.marshal())
	}
	for _, v := range g.outputs {
		graph.message(12, v.marshal())
	}
	m.integer(1, irVersion)
	m.text(2, "gantry")
	m.message(7, graph)
	for _, s := range []attribute{{"", opset}, {microsoft, 1}} {
		var set message // OperatorSetIdProto
		set.text(1, s.name)
		set.integer(2, uint64(s.i))
		m.message(8, set)
	}
	return m
}

// marshal writes a NodeProto.
func (n node) marshal() message {
	var m message
	for _, in := range n.inputs {
		m.text(1, in)
	}
	m.text(2, n.output)
	m.text(3, n.output)
	m.text(4, n.op)
	for _, a := range n.attributes {
		const attributeInt = 2
		var p message
		p.text(1, a.name)
		p.integer(3, uint64(a.i))
		p.integer(20, attributeInt)
		m.message(5, p)
	}
	m.text(7, n.domain)
	return m
}

// marshal writes a TensorProto whose bytes are said to be in the placeholder.
func (e external) marshal() message {
	const locationExternal = 1
	var m message
	for _, d := range e.shape {
		m.integer(1, uint64(d))
	}
	m.integer(2, elementType[e.typ])
	m.text(8, e.name)
	for _, kv := range [][2]string{
		{"location", placeholder},
		{"offset", strconv.Itoa(placeholderOffset)},
		{"length", strconv.Itoa(len(e.data))},
	} {
		var p message
		p.text(1, kv[0])
		p.text(2, kv[1])
		m.message(13, p)
	}
	m.integer(14, locationExternal)
	return m
}

// marshal writes a ValueInfoProto.
func (v value) marshal() message {
	var shape, tensor, typ, m message
	for _, d := range v.shape {
		var dim message
		dim.integer(1, uint64(d))
		shape.message(1, dim)
	}
	tensor.integer(1, elementType[v.typ])
	tensor.message(2, shape)
	typ.message(1, tensor)
	m.text(1, v.name)
	m.message(2, typ)
	return m
}

// message is a protobuf message in wire format.
type message []byte

func (m *message) integer(field protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), v)
}

func (m *message) text(field protowire.Number, s string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, field, protowire.BytesType), s)
}

func (m *message) message(field protowire.Number, sub message) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), sub)
}
