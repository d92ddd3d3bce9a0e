package onnx

import (
	"cmp"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/recovery"
)

// Fields of GraphProto, NodeProto, AttributeProto and FunctionProto.
const (
	graphNode        field = 1
	graphInitializer field = 5
	graphInput       field = 11
	graphOutput      field = 12
	graphSparse      field = 15

	nodeInput     field = 1
	nodeOutput    field = 2
	nodeOperator  field = 4
	nodeAttribute field = 5
	nodeDomain    field = 7

	attributeName   field = 1
	attributeInt    field = 3
	attributeTensor field = 5
	attributeGraph  field = 6
	attributeGraphs field = 11
	attributeSparse field = 22

	functionNode field = 7
)

// graph reads a GraphProto with the given number.
func (p *parser) graph(stop int64, number int32) error {
	return p.message(stop, func(v value) error {
		switch {
		case !v.bytes():
		case v.field == graphNode:
			return p.node(v.stop, number)
		case v.field == graphInitializer:
			t, err := p.tensor(v.stop)
			if err != nil {
				return err
			}
			return p.keep(&t, number)
		case v.field == graphInput && number == 0:
			return p.value(v.stop, &p.inputs)
		case v.field == graphOutput && number == 0:
			return p.value(v.stop, &p.outputs)
		case v.field == graphSparse:
			return recovery.Errorf(recovery.Unsupported, "the model has sparse initializers, which are not supported: store them as dense ones")
		}
		return nil
	})
}

// inner reads a graph inside a node.
func (p *parser) inner(stop int64) error {
	if p.depth == MaxDepth {
		return recovery.Errorf(recovery.Unsupported, "graphs nest deeper than %d", MaxDepth)
	}
	p.depth++
	err := p.graph(stop, p.next())
	p.depth--
	return err
}

// next numbers a graph.
func (p *parser) next() int32 {
	p.graphs++ // each takes two bytes or more: a file that overflows this has 4 GiB of them
	return p.graphs - 1
}

// function reads a FunctionProto, whose nodes are a graph of their own.
func (p *parser) function(stop int64) error {
	number := p.next()
	p.inFunction = true // the model's functions come one after the other, none inside another
	defer func() { p.inFunction = false }()
	return p.message(stop, func(v value) error {
		if v.field == functionNode && v.bytes() {
			return p.node(v.stop, number)
		}
		return nil
	})
}

// node is what is kept of a node while it is read.
type node struct {
	inputs   int
	operand  uint64 // hash of the second input, 0 where there is none
	output   []byte // the first; valid until the next node of a graph of this depth
	operator string
	domain   string
	value    rawTensor // its attribute named value, a tensor
	valued   bool      // it has that
	sparse   bool      // its attribute named sparse_value
	transB   bool
}

// node reads a NodeProto of a graph with the given number.
func (p *parser) node(stop int64, graph int32) error {
	var n node
	err := p.message(stop, func(v value) (err error) {
		if !v.bytes() {
			return nil
		}
		switch v.field {
		case nodeInput:
			if n.inputs++; n.inputs == 2 && p.off < v.stop {
				var b []byte
				b, err = p.chars(v.stop)
				n.operand = xxh3.Hash(b)
			}
		case nodeOutput:
			if len(n.output) == 0 {
				var b []byte
				b, err = p.chars(v.stop)
				n.output = append(p.outputOf[p.depth][:0], b...)
				p.outputOf[p.depth] = n.output
			}
		case nodeOperator:
			n.operator, err = p.word(v.stop)
		case nodeDomain:
			n.domain, err = p.word(v.stop)
		case nodeAttribute:
			err = p.attribute(v.stop, &n)
		}
		return err
	})
	if err != nil {
		return err
	}
	return p.uses(&n, graph)
}

// quantizing are operators that compute with quantized weights, or make and
// use them; those of other domains than ONNX's are ONNX Runtime's.
var quantizing = []string{
	"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulBnb4", "MatMulInteger",
	"MatMulIntegerToFloat", "MatMulNBits", "GatherBlockQuantized", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
}

// operandCost is what an operand takes in a list that grows, in bytes.
const operandCost = 32

// uses notes what a node tells about tensors.
func (p *parser) uses(n *node, graph int32) error {
	onnx := n.domain == "" || n.domain == "ai.onnx"
	switch {
	case onnx && n.operator == "Constant" && n.sparse:
		return unsupportedTensor(string(n.output), "it is a sparse constant, which is not supported: store it as a dense one")
	case onnx && n.operator == "Constant" && n.valued:
		n.value.Name = string(n.output)
		return cmp.Or(p.budget.Text(len(n.output)), p.keep(&n.value, graph))
	case onnx && n.operator == "Constant" && p.whole:
		p.settings = append(p.settings, string(n.output))
	case onnx && (n.operator == "MatMul" || n.operator == "Gemm" && !n.transB):
		if n.operand != 0 {
			p.operands = append(p.operands, n.operand)
			return p.budget.Spend(operandCost)
		}
	}
	p.nbits = p.nbits || n.operator == "MatMulNBits"
	_, quantizes := slices.BinarySearch(quantizing, n.operator)
	p.h.Quantized = p.h.Quantized || quantizes
	return nil
}

// attribute reads an AttributeProto of a node.
func (p *parser) attribute(stop int64, n *node) error {
	var name string
	var tensor rawTensor
	var valued, sparse, set bool
	err := p.message(stop, func(v value) (err error) {
		switch {
		case v.field == attributeInt && v.number():
			set = v.num != 0
		case !v.bytes():
		case v.field == attributeName:
			name, err = p.word(v.stop)
		case v.field == attributeTensor:
			tensor, err = p.tensor(v.stop)
			valued = true
		case v.field == attributeGraph, v.field == attributeGraphs:
			err = p.inner(v.stop)
		case v.field == attributeSparse:
			sparse = true
		}
		return err
	})
	switch name {
	case "value":
		n.value, n.valued = tensor, valued
	case "sparse_value":
		n.sparse = sparse
	case "transB":
		n.transB = set
	}
	return err
}
