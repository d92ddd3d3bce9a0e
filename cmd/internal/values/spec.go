package values

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/model/session"
	"github.com/gantry-ml/gantry/recovery"
)

// maxDrawn bounds the bytes of an input that is not given value by value.
const maxDrawn = 4 << 30

func usagef(format string, args ...any) error {
	return recovery.Errorf(recovery.Usage, format, args...)
}

// Inputs makes the inputs of a graph from what a user gave. Each of inputs is
// NAME= and what it is:
//
//   - the path of a .npy file;
//   - a JSON array, nested as the shape is, or flat where the shape is known;
//     one number or bool fills the whole shape;
//   - zeros, ones, random or random:SEED.
//
// Each of dims is AXIS=N, the size of a free axis, by its name or as
// INPUT:INDEX. Errors are of class usage, in one line, or those of opening
// files.
func Inputs(g *onnx.Graph, inputs, dims []string) ([]ort.Tensor, error) {
	a, err := parseAxes(dims)
	if err != nil {
		return nil, err
	}
	var out []ort.Tensor
	for _, s := range inputs {
		name, spec, ok := strings.Cut(s, "=")
		if !ok || name == "" || spec == "" {
			return nil, usagef("--input %s: want NAME=FILE.npy, NAME=[values], NAME=random:SEED, NAME=zeros or NAME=ones", s)
		}
		v, err := session.Find(g, name)
		if err != nil {
			return nil, err
		}
		if v.Kind != onnx.Numbers || !ort.Holds(v.DType) {
			return nil, usagef("--input %s: the graph takes %s, and only tensors of numbers can be given", name, session.Describe(v))
		}
		t, err := tensor(v, spec, a)
		if err != nil {
			return nil, err
		}
		t.Name = name
		out = append(out, t)
	}
	if err := a.unused(g); err != nil {
		return nil, err
	}
	return out, hinted(session.CheckInputs(g, out))
}

// hinted says in an error how inputs are given.
func hinted(err error) error {
	var e *recovery.Error
	if errors.As(err, &e) {
		e.Hint = "give each as --input NAME=FILE.npy, NAME=[values], NAME=random:SEED, NAME=zeros or NAME=ones"
	}
	return err
}

// tensor makes one input.
func tensor(v onnx.Value, spec string, a *axes) (ort.Tensor, error) {
	kind, seed, _ := strings.Cut(spec, ":")
	switch {
	case spec == "zeros" || spec == "ones" || spec == "random" || kind == "random":
		shape, err := a.shape(v)
		if err != nil {
			return ort.Tensor{}, err
		}
		return drawn(v, kind, seed, shape)
	case strings.HasSuffix(spec, ".npy"):
		t, err := readNpy(spec, v.DType)
		return t, wants(v, err)
	case json.Valid([]byte(spec)):
		t, err := fromJSON(v, []byte(spec), a)
		return t, wants(v, err)
	}
	return ort.Tensor{}, usagef("--input %s=%.60s: neither a .npy file, JSON values, random:SEED, zeros nor ones; want %s", v.Name, spec, session.Describe(v))
}

// wants says in an error what the graph takes.
func wants(v onnx.Value, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--input %s: %w; want %s", v.Name, err, session.Describe(v))
}

// newTensor makes a tensor of zeros.
func newTensor(v onnx.Value, shape []int64) (ort.Tensor, error) {
	n, err := dtype.Elements(shape)
	if err == nil {
		n, err = v.DType.PaddedBytes(n)
	}
	if err != nil || n > maxDrawn {
		return ort.Tensor{}, usagef("--input %s: %s %v is too large", v.Name, v.DType, shape)
	}
	return ort.Tensor{Type: v.DType, Shape: shape, Data: make([]byte, n)}, nil
}

// drawn makes zeros, ones, or numbers that the seed alone decides: floats in
// [-1, 1), integers from 0 to 9 (4 bits: 7), bools.
func drawn(v onnx.Value, kind, seed string, shape []int64) (ort.Tensor, error) {
	t, err := newTensor(v, shape)
	if err != nil || kind == "zeros" {
		return t, err
	}
	one, err := bitsOf(t.Type, "1")
	if err != nil {
		return t, usagef("--input %s=%s: %w", v.Name, kind, err)
	}
	next := func() uint64 { return one }
	if kind == "random" {
		n := uint64(0)
		if seed != "" {
			if n, err = strconv.ParseUint(seed, 10, 64); err != nil {
				return t, usagef("--input %s=random:%s: the seed is no number", v.Name, seed)
			}
		}
		r := rand.New(rand.NewPCG(n, 0))
		next = func() uint64 { return draw(t.Type, r) }
	}
	count, err := dtype.Elements(shape)
	if err != nil {
		return t, err
	}
	for i := range int(count) {
		putBits(t.Data, i, t.Type.Bits(), next())
	}
	return t, nil
}

// draw returns the bits of a number.
func draw(t dtype.Type, r *rand.Rand) uint64 {
	if bits, ok := floatBits(t, float64(r.Int32N(1<<24))/(1<<23)-1); ok {
		return bits
	}
	switch t {
	case dtype.Bool:
		return r.Uint64N(2)
	case dtype.I4, dtype.U4:
		return r.Uint64N(8)
	}
	return r.Uint64N(10)
}
