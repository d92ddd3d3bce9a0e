// Package onnxtest writes small ONNX models, right or wrong, for tests.
package onnxtest

import (
	"encoding/binary"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is a protobuf message, encoded. The functions below return messages
// of onnx/onnx.proto; a field more, of any kind, may be appended to each.
type Message []byte

// Int appends a number.
func (m Message) Int(field protowire.Number, v int64) Message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), uint64(v))
}

// Bytes appends bytes, a text or a message.
func (m Message) Bytes(field protowire.Number, b []byte) Message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), b)
}

// Text appends a text.
func (m Message) Text(field protowire.Number, s string) Message { return m.Bytes(field, []byte(s)) }

// Model returns a ModelProto of a graph, as a small exporter writes it.
func Model(graph Message) Message {
	return Message{}.Int(1, 10).Text(2, "onnxtest").Text(3, "1.0").Bytes(7, graph).Bytes(8, Message{}.Text(1, "").Int(2, 21))
}

// Graph returns a GraphProto with initializers and nodes.
func Graph(initializers []Message, nodes ...Message) Message {
	var m Message
	for _, n := range nodes {
		m = m.Bytes(1, n)
	}
	m = m.Text(2, "graph")
	for _, t := range initializers {
		m = m.Bytes(5, t)
	}
	return m
}

// Node returns a NodeProto with an operator, its inputs and one output.
// Attributes are appended as field 5.
func Node(operator, output string, inputs ...string) Message {
	var m Message
	for _, in := range inputs {
		m = m.Text(1, in)
	}
	return m.Text(2, output).Text(4, operator)
}

// Attribute returns an AttributeProto whose value is in the given field: 5 a
// tensor, 6 a graph.
func Attribute(name string, field protowire.Number, value Message) Message {
	return Message{}.Text(1, name).Bytes(field, value)
}

// Constant returns a Constant node that makes a tensor.
func Constant(output string, tensor Message) Message {
	return Node("Constant", output).Bytes(5, Attribute("value", 5, tensor))
}

// Tensor returns a TensorProto without data. dataType is ONNX's number.
func Tensor(name string, dataType int64, dims ...int64) Message {
	var m Message
	for _, d := range dims {
		m = m.Int(1, d)
	}
	return m.Int(2, dataType).Text(8, name)
}

// Raw appends raw_data.
func (m Message) Raw(b []byte) Message { return m.Bytes(9, b) }

// Floats appends float_data.
func (m Message) Floats(v ...float32) Message {
	var b []byte
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return m.Bytes(4, b)
}

// Varints appends a packed field: 5 is int32_data, 7 int64_data, 11
// uint64_data.
func (m Message) Varints(field protowire.Number, v ...int64) Message {
	var b []byte
	for _, n := range v {
		b = protowire.AppendVarint(b, uint64(n))
	}
	return m.Bytes(field, b)
}

// External appends the place of external data. An offset or length below zero
// is left out.
func (m Message) External(location string, offset, length int64) Message {
	m = m.Entry(13, "location", location)
	if offset >= 0 {
		m = m.Entry(13, "offset", strconv.FormatInt(offset, 10))
	}
	if length >= 0 {
		m = m.Entry(13, "length", strconv.FormatInt(length, 10))
	}
	return m.Int(14, 1)
}

// Entry appends a StringStringEntryProto.
func (m Message) Entry(field protowire.Number, key, value string) Message {
	return m.Bytes(field, Message{}.Text(1, key).Text(2, value))
}
