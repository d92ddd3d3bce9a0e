// Package orttest runs ONNX files in plain ONNX Runtime, through
// onnxruntime_go alone: what gantry's sessions are held against in tests.
package orttest

import (
	"errors"
	"fmt"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
)

// Plain runs a model's file with its own weights: optimized as ONNX Runtime does
// by default, or with the settings of gantry's sessions, which are no
// optimization of the graph and no packed copies of weights. Inputs and outputs
// must be of a type that onnxruntime_go reads back whole.
func Plain(path string, optimized bool, inputs []ort.Tensor, outputs []string) (_ []ort.Tensor, err error) {
	if len(inputs) == 0 {
		return nil, errors.New("onnxruntime_go runs no model without inputs")
	}
	if _, err := ort.Open(""); err != nil { // starts the environment
		return nil, err
	}
	o, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.Destroy()) }()
	set := []error{o.SetLogSeverityLevel(onnx.LoggingLevelFatal)}
	if !optimized {
		set = append(set, o.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelDisableAll),
			o.AddSessionConfigEntry("session.disable_prepacking", "1"))
	}
	if err := errors.Join(set...); err != nil {
		return nil, err
	}
	var names []string
	var in []onnx.Value
	defer func() { err = errors.Join(err, destroy(in)) }()
	for _, x := range inputs {
		v, err := newValue(x)
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", x.Name, err)
		}
		names, in = append(names, x.Name), append(in, v)
	}
	s, err := onnx.NewDynamicAdvancedSession(path, names, outputs, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Destroy()) }()
	out := make([]onnx.Value, len(outputs))
	if err := s.Run(in, out); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, destroy(out)) }()
	var read []ort.Tensor
	for i, v := range out {
		x, err := tensorOf(v)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", outputs[i], err)
		}
		x.Name = outputs[i]
		read = append(read, x)
	}
	return read, nil
}

func destroy(values []onnx.Value) error {
	var errs []error
	for _, v := range values {
		if v != nil {
			errs = append(errs, v.Destroy())
		}
	}
	return errors.Join(errs...)
}

func newValue(x ort.Tensor) (onnx.Value, error) {
	switch x.Type {
	case dtype.F32:
		return newTensor[float32](x)
	case dtype.F64:
		return newTensor[float64](x)
	case dtype.I8:
		return newTensor[int8](x)
	case dtype.I16:
		return newTensor[int16](x)
	case dtype.I32:
		return newTensor[int32](x)
	case dtype.I64:
		return newTensor[int64](x)
	case dtype.U8:
		return newTensor[uint8](x)
	case dtype.U16:
		return newTensor[uint16](x)
	case dtype.U32:
		return newTensor[uint32](x)
	case dtype.U64:
		return newTensor[uint64](x)
	case dtype.Bool:
		return newTensor[bool](x)
	}
	return nil, fmt.Errorf("no %s in onnxruntime_go", x.Type)
}

// newTensor copies x.
func newTensor[T onnx.TensorData](x ort.Tensor) (onnx.Value, error) {
	var zero T
	data := make([]T, len(x.Data)/int(unsafe.Sizeof(zero)))
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), len(x.Data)), x.Data)
	if len(x.Shape) == 0 {
		return onnx.NewScalar(data[0])
	}
	return onnx.NewTensor(onnx.NewShape(x.Shape...), data)
}

func tensorOf(v onnx.Value) (ort.Tensor, error) {
	switch v := v.(type) {
	case *onnx.Tensor[float32]:
		return read(dtype.F32, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[float64]:
		return read(dtype.F64, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[int8]:
		return read(dtype.I8, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[int16]:
		return read(dtype.I16, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[int32]:
		return read(dtype.I32, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[int64]:
		return read(dtype.I64, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[uint8]:
		return read(dtype.U8, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[uint16]:
		return read(dtype.U16, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[uint32]:
		return read(dtype.U32, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[uint64]:
		return read(dtype.U64, v.GetShape(), v.GetData()), nil
	case *onnx.Tensor[bool]:
		return read(dtype.Bool, v.GetShape(), v.GetData()), nil
	}
	return ort.Tensor{}, fmt.Errorf("no %T is read back", v)
}

// read copies a tensor's elements.
func read[T onnx.TensorData](t dtype.Type, shape onnx.Shape, data []T) ort.Tensor {
	x := ort.Tensor{Type: t, Shape: append([]int64{}, shape...)}
	if n := len(data) * t.Size(); n > 0 {
		x.Data = append(x.Data, unsafe.Slice((*byte)(unsafe.Pointer(&data[0])), n)...)
	}
	return x
}
