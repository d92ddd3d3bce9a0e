package ort

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/recovery"
)

// outside is an initializer whose bytes a session is given.
func outside(name string, typ dtype.Type, dims ...int64) onnxtest.Message {
	return onnxtest.Tensor(name, int64(elementType[typ]), dims...).External(placeholder, placeholderOffset, 12)
}

// newModel is a session's model of a graph from X to Y, F32 [3] both.
func newModel(graph onnxtest.Message, weights ...Tensor) Model {
	graph = graph.Bytes(11, onnxtest.Message(value{"X", dtype.F32, []int64{3}}.marshal())).Bytes(12, onnxtest.Message(value{"Y", dtype.F32, []int64{3}}.marshal()))
	return Model{Proto: onnxtest.Model(graph), Placeholder: placeholder, Weights: weights, Inputs: []string{"X"}, Outputs: []string{"Y"}, Threads: 1}
}

func floats(name string, v ...float32) Tensor {
	return Tensor{Name: name, Type: dtype.F32, Shape: []int64{int64(len(v))}, Data: slices.Clone(bytesOf(v))}
}

// runOnce makes a session, runs it, and closes it.
func runOnce(t *testing.T, m Model, in ...Tensor) ([]Tensor, error) {
	t.Helper()
	s, err := openRuntime(t).NewSession(m)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	return s.Run(t.Context(), in)
}

// branches is an If whose branches add a weight each, made by f, to X.
func branches(f func(name string) onnxtest.Message) onnxtest.Message {
	branch := func(b, w string) onnxtest.Message {
		g := f(w).Bytes(1, onnxtest.Node("Add", "o", "X", w)).Bytes(12, onnxtest.Message(value{"o", dtype.F32, []int64{3}}.marshal()))
		return onnxtest.Attribute(b, 6, g).Int(20, 5)
	}
	return onnxtest.Node("If", "Y", "taken").Bytes(5, branch("then_branch", "a")).Bytes(5, branch("else_branch", "b"))
}

// TestWeightsEverywhere: initializers and constants, in the model's graph and
// in branches, are the memory that the session was given.
func TestWeightsEverywhere(t *testing.T) {
	constant := func(w string) onnxtest.Message {
		return onnxtest.Node("Constant", w).Bytes(5, onnxtest.Attribute("value", 5, outside("", dtype.F32, 3)).Int(20, 4))
	}
	initializer := func(w string) onnxtest.Message { return onnxtest.Graph([]onnxtest.Message{outside(w, dtype.F32, 3)}) }
	inConstant := func(w string) onnxtest.Message { return onnxtest.Graph(nil, constant(w)) }
	taken := func(v byte) onnxtest.Message { return onnxtest.Tensor("taken", 9).Raw([]byte{v}) }
	add := onnxtest.Node("Add", "Y", "X", "a")
	for name, graph := range map[string]onnxtest.Message{
		"initializer":           onnxtest.Graph([]onnxtest.Message{outside("a", dtype.F32, 3)}, add),
		"constant":              onnxtest.Graph(nil, constant("a"), add),
		"branch's initializer":  onnxtest.Graph([]onnxtest.Message{taken(1)}, branches(initializer)),
		"branch's constant":     onnxtest.Graph([]onnxtest.Message{taken(1)}, branches(inConstant)),
		"other's initializer":   onnxtest.Graph([]onnxtest.Message{taken(0)}, branches(initializer)),
		"other's constant":      onnxtest.Graph([]onnxtest.Message{taken(0)}, branches(inConstant)),
		"an input with a value": onnxtest.Graph([]onnxtest.Message{outside("a", dtype.F32, 3)}, add).Bytes(11, onnxtest.Message(value{"a", dtype.F32, []int64{3}}.marshal())),
	} {
		out, err := runOnce(t, newModel(graph, floats("a", 10, 20, 30), floats("b", 100, 200, 300)), floats("X", 1, 2, 3))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := floats("Y", 11, 22, 33)
		if strings.HasPrefix(name, "other") {
			want = floats("Y", 101, 202, 303)
		}
		if out[0].Name != "Y" || !slices.Equal(out[0].Shape, want.Shape) || !bytes.Equal(out[0].Data, want.Data) {
			t.Errorf("%s: %+v", name, out[0])
		}
	}
}

// TestWeightMissing: a weight that the session was not given is an error, and
// not whatever the placeholder has.
func TestWeightMissing(t *testing.T) {
	m := newModel(onnxtest.Graph([]onnxtest.Message{outside("w", dtype.F32, 3)}, onnxtest.Node("Add", "Y", "X", "w")))
	if _, err := runOnce(t, m, floats("X", 1, 2, 3)); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("%v, want class unsupported", err)
	}
}

// TestTensorTypes: tensors of each type, also empty ones and scalars, go in
// and come out as they are. The output is the input itself: not every type has
// an operator.
func TestTensorTypes(t *testing.T) {
	for typ := range elementType {
		for _, shape := range [][]int64{{3, 5}, {0, 2}, {}} {
			n, err := dtype.Elements(shape)
			if err == nil {
				n, err = typ.PaddedBytes(n)
			}
			if err != nil {
				t.Fatal(err)
			}
			x := Tensor{Name: "X", Type: typ, Shape: shape, Data: bytes.Repeat([]byte{1}, int(n))}
			graph := onnxtest.Graph(nil).Bytes(11, value{"X", typ, shape}.marshal()).Bytes(12, value{"X", typ, shape}.marshal())
			model := onnxtest.Message{}.Int(1, 10).Bytes(7, graph).Bytes(8, onnxtest.Message{}.Text(1, "").Int(2, 25))
			out, err := runOnce(t, Model{Proto: model, Placeholder: placeholder, Inputs: []string{"X"}, Outputs: []string{"X"}}, x)
			if err != nil {
				t.Errorf("%s %v: %v", typ, shape, err)
				continue
			}
			if y := out[0]; y.Type != typ || !slices.Equal(y.Shape, shape) || !bytes.Equal(y.Data, x.Data) {
				t.Errorf("%s %v: %+v", typ, shape, y)
			}
		}
	}
}

// TestOtherOutputs: texts, sequences and empty options are told as what they
// are, without values.
func TestOtherOutputs(t *testing.T) {
	texts := onnxtest.Tensor("t", 8, 2).Text(6, "a").Text(6, "b")
	graph := onnxtest.Graph(nil,
		onnxtest.Node("Constant", "texts").Bytes(5, onnxtest.Attribute("value", 5, texts).Int(20, 4)),
		onnxtest.Node("SequenceConstruct", "list", "X"),
		onnxtest.Node("Identity", "Y", "X"))
	f32 := onnxtest.Message{}.Bytes(1, onnxtest.Message{}.Int(1, 1)) // a TypeProto
	graph = graph.Bytes(1, onnxtest.Node("Optional", "none").Bytes(5, onnxtest.Attribute("type", 14, f32).Int(20, 13)))
	m := newModel(graph.Bytes(12, onnxtest.Message{}.Text(1, "texts")).Bytes(12, onnxtest.Message{}.Text(1, "list")).Bytes(12, onnxtest.Message{}.Text(1, "none")))
	m.Outputs = []string{"texts", "list", "Y", "none"}
	out, err := runOnce(t, m, floats("X", 1, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	if x := out[0]; x.Type != dtype.Invalid || !slices.Equal(x.Shape, []int64{2}) {
		t.Errorf("texts: %+v", x)
	}
	if x := out[1]; x.Type != dtype.Invalid || x.Shape != nil {
		t.Errorf("list: %+v", x)
	}
	if out[2].Type != dtype.F32 {
		t.Errorf("Y: %+v", out[2])
	}
	if x := out[3]; x.Type != dtype.Invalid || x.Shape != nil {
		t.Errorf("none: %+v", x)
	}
}

func TestRunRefuses(t *testing.T) {
	m := newModel(onnxtest.Graph(nil, onnxtest.Node("Identity", "Y", "X")))
	for name, in := range map[string][]Tensor{
		"missing":     nil,
		"wrong name":  {floats("Z", 1, 2, 3)},
		"wrong shape": {floats("X", 1, 2)},
		"wrong type":  {{Name: "X", Type: dtype.I32, Shape: []int64{3}, Data: make([]byte, 12)}},
		"short":       {{Name: "X", Type: dtype.F32, Shape: []int64{3}, Data: make([]byte, 11)}},
		"no type":     {{Name: "X", Shape: []int64{3}}},
	} {
		if out, err := runOnce(t, m, in...); err == nil {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

// TestSessionLifetime: a session that is closed is not used, nor closed again.
func TestSessionLifetime(t *testing.T) {
	s, err := openRuntime(t).NewSession(newModel(onnxtest.Graph(nil, onnxtest.Node("Identity", "Y", "X"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !invariants.Enabled {
		return // then nothing checks
	}
	for name, use := range map[string]func(){
		"run":   func() { _, _ = s.Run(context.Background(), []Tensor{floats("X", 1, 2, 3)}) },
		"close": func() { _ = s.Close() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of a closed session does not panic", name)
				}
			}()
			use()
		}()
	}
}

// TestRunAtOnce: one session is run from several goroutines.
func TestRunAtOnce(t *testing.T) {
	s, err := openRuntime(t).NewSession(newModel(onnxtest.Graph([]onnxtest.Message{outside("w", dtype.F32, 3)}, onnxtest.Node("Add", "Y", "X", "w")), floats("w", 10, 20, 30)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			x := float32(i)
			for range 20 {
				out, err := s.Run(t.Context(), []Tensor{floats("X", x, x, x)})
				if err != nil {
					return err
				}
				if want := floats("Y", x+10, x+20, x+30); !bytes.Equal(out[0].Data, want.Data) {
					return fmt.Errorf("%v for %g", out[0].Data, x)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
