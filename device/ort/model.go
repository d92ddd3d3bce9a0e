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

// placeholder is the file that external initializers are said to lie in.
const placeholder = "weights.bin"

// microsoft is the domain of ONNX Runtime's own operators.
const microsoft = "com.microsoft"

// elementType is TensorProto.DataType of what a Matrix may hold; the C API has
// the same numbers for these.
var elementType = map[dtype.Type]uint64{dtype.F32: 1, dtype.U8: 2, dtype.I8: 3, dtype.F16: 10, dtype.BF16: 16,
	dtype.F8E4M3: 17, dtype.F8E5M2: 19, dtype.U4: 21}

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

// size is how long the placeholder must be.
func (g *model) size() int64 {
	var n int64
	for _, e := range g.external {
		n += int64(len(e.data))
	}
	return n
}

// marshal writes a ModelProto.
func (g *model) marshal() []byte {
	var graph, m message
	for _, n := range g.nodes {
		graph.message(1, n.marshal())
	}
	graph.text(2, "gantry")
	var offset int64
	for _, e := range g.external {
		graph.message(5, e.marshal(offset))
		offset += int64(len(e.data))
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

// marshal writes a TensorProto whose bytes are at offset of the placeholder.
func (e external) marshal(offset int64) message {
	const locationExternal = 1
	var m message
	for _, d := range e.shape {
		m.integer(1, uint64(d))
	}
	m.integer(2, elementType[e.typ])
	m.text(8, e.name)
	for _, kv := range [][2]string{
		{"location", placeholder},
		{"offset", strconv.FormatInt(offset, 10)},
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
