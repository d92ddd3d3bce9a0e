package onnx

import (
	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// Fields of TensorProto.
const (
	tensorDims         field = 1
	tensorType         field = 2
	tensorSegment      field = 3
	floatData          field = 4
	int32Data          field = 5
	stringData         field = 6
	int64Data          field = 7
	tensorName         field = 8
	rawData            field = 9
	doubleData         field = 10
	uint64Data         field = 11
	tensorExternal     field = 13
	tensorDataLocation field = 14
)

// dataNames are the fields that may hold a tensor's values.
var dataNames = map[field]string{
	floatData: "float_data", int32Data: "int32_data", stringData: "string_data", int64Data: "int64_data",
	rawData: "raw_data", doubleData: "double_data", uint64Data: "uint64_data",
}

// rawTensor is a tensor as the file tells it, not checked.
type rawTensor struct {
	Tensor
	kind     uint64
	data     field // that holds the values, 0 without any
	offset   int64 // of the values, in the model's file
	bytes    int64
	parts    int // of the values
	segment  bool
	external bool // data_location says so
	where    location
	message  span // the TensorProto
}

// tensor reads a TensorProto. Its values are passed over.
func (p *parser) tensor(stop int64) (t rawTensor, err error) {
	t.message = span{p.off, stop}
	err = p.message(stop, func(v value) (err error) {
		switch v.field {
		case tensorDims:
			return p.dimensions(&t, v)
		case tensorType:
			if v.number() {
				t.kind = v.num
			}
		case tensorName:
			if v.bytes() {
				t.Name, err = p.text(v.stop)
			}
		case tensorSegment:
			t.segment = true
		case tensorExternal:
			return p.location(&t.where, v)
		case tensorDataLocation:
			t.external = v.number() && v.num == 1
		case floatData, int32Data, stringData, int64Data, rawData, doubleData, uint64Data:
			if t.data != 0 && t.data != v.field {
				return header.BadTensor(t.Name, "it has both %s and %s", dataNames[t.data], dataNames[v.field])
			}
			t.data, t.parts = v.field, t.parts+1
			t.offset, t.bytes = p.off, v.stop-p.off
			p.passed += t.bytes
			if !v.bytes() {
				t.parts = 2 // a number that is not packed is one of several
			}
		}
		return err
	})
	return t, err
}

// dimensions reads dims, packed or one by one.
func (p *parser) dimensions(t *rawTensor, v value) error {
	if v.number() {
		return p.dimension(t, v.num)
	}
	for v.bytes() && p.off < v.stop {
		d, err := p.varint(v.stop)
		if err == nil {
			err = p.dimension(t, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) dimension(t *rawTensor, d uint64) error {
	if len(t.Shape) == MaxDimensions {
		return unsupportedTensor(t.Name, "more than %d dimensions", MaxDimensions)
	}
	t.Shape = p.append(t.Shape, int64(d))
	return p.budget.Shape(1)
}

// append appends to a shape, in memory that many shapes share. Dimensions of
// one tensor come one after the other, without another's between them.
func (p *parser) append(shape []int64, d int64) []int64 {
	if len(shape) == 0 {
		shape = p.dims[len(p.dims):]
	}
	if len(p.dims) == cap(p.dims) {
		p.dims = append(make([]int64, 0, max(256, len(shape)+MaxDimensions)), shape...)
		shape = p.dims
	}
	p.dims = append(p.dims, d)
	n := len(shape) + 1
	return p.dims[len(p.dims)-n : len(p.dims) : len(p.dims)]
}

// keep checks a tensor of a graph and adds it.
func (p *parser) keep(t *rawTensor, graph int32) error {
	n := p.tensors.Len()
	if n == MaxTensors {
		return recovery.Errorf(recovery.Unsupported, "more than %d tensors in one model", MaxTensors)
	}
	if t.Name == "" {
		return recovery.Errorf(recovery.InvalidCheckpoint, "tensor %d has no name", n)
	}
	if err := p.check(t); err != nil {
		return err
	}
	p.graphOf = append(p.graphOf, graph)
	if p.whole {
		p.places = append(p.places, place{t.message, t.Name, t.kind, p.inFunction, graph})
	}
	return p.tensors.Add(&p.budget, t.Tensor)
}

// check checks what a tensor says about itself and finds its bytes.
func (p *parser) check(t *rawTensor) error {
	bad := func(format string, args ...any) error { return header.BadTensor(t.Name, format, args...) }
	switch {
	case t.kind == 0:
		return bad("it has no type")
	case t.kind == stringType:
		return unsupportedTensor(t.Name, "its elements are texts, which are not supported")
	case t.kind >= uint64(len(types)):
		return unsupportedTensor(t.Name, "its type is number %d, which this version does not know", t.kind)
	case t.segment:
		return unsupportedTensor(t.Name, "it is stored in segments, which are not supported")
	}
	typ := &types[t.kind]
	t.DType = typ.dtype
	n, err := dtype.Elements(t.Shape)
	if err == nil {
		t.Bytes, err = t.DType.PaddedBytes(n)
	}
	if err != nil {
		return bad("%w", err)
	}
	switch {
	case t.external && t.data != 0:
		return bad("it has both external data and %s", dataNames[t.data])
	case t.external:
		return p.findExternal(t)
	case t.Bytes == 0 && t.bytes == 0:
		t.File = InModel
		return nil
	case t.data == 0:
		return bad("its type and shape need %d bytes, but it has no data", t.Bytes)
	case t.data == rawData: // of several the last counts
	case t.data != typ.field:
		return bad("%s holds no values of type %s", dataNames[t.data], typ.name)
	case t.parts > 1:
		return unsupportedTensor(t.Name, "its %s is not in one piece: store it as raw data", dataNames[t.data])
	case typ.coded > 0:
		return p.addCoded(t, typ.coded)
	}
	if t.bytes != t.Bytes {
		return bad("its %s has %d bytes, its type and shape need %d", dataNames[t.data], t.bytes, t.Bytes)
	}
	t.File, t.Offset = InModel, t.offset
	return nil
}
