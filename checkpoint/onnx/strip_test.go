package onnx

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// inMemory is an open file.
type inMemory []byte

func (m inMemory) File() source.File { return source.File{Name: "model.onnx", Size: int64(len(m))} }
func (m inMemory) Close() error      { return nil }

func (m inMemory) ReadAt(_ context.Context, p []byte, off int64) error {
	if n, err := bytes.NewReader(m).ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read %d of %d bytes: %w", n, len(p), err)
	}
	return nil
}

func mustReadGraph(t testing.TB, m message) *Graph {
	t.Helper()
	g, err := ReadGraph(t.Context(), inMemory(m))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// input is a ValueInfoProto; a dimension is a number, or the name of an axis.
func input(name string, kind int64, dims ...any) message {
	var shape message
	for _, d := range dims {
		switch d := d.(type) {
		case int:
			shape = shape.Bytes(1, message{}.Int(1, int64(d)))
		case string:
			shape = shape.Bytes(1, message{}.Text(2, d))
		}
	}
	tensor := message{}.Int(1, kind).Bytes(2, shape)
	return message{}.Text(1, name).Bytes(2, message{}.Bytes(1, tensor))
}

func TestReadGraph(t *testing.T) {
	inner := onnxtest.Graph(nil).Bytes(11, input("inner", 1, 7))
	g := mustReadGraph(t, onnxtest.Model(onnxtest.Graph(
		[]message{onnxtest.Tensor("w", 1, 2).Raw(make([]byte, 8))},
		onnxtest.Node("MatMulNBits", "y", "x").Bytes(5, onnxtest.Attribute("body", 6, inner))).
		Bytes(11, input("x", 1, "batch", 3, "")).
		Bytes(11, input("w", 1, 2)).
		Bytes(11, input("one", 7)).
		Bytes(11, input("texts", 8, 4)).
		Bytes(11, message{}.Text(1, "any").Bytes(2, message{}.Bytes(1, message{}.Int(1, 10)))).
		Bytes(11, message{}.Text(1, "list").Bytes(2, message{}.Bytes(4, nil))).
		Bytes(12, input("y", 16, -1))))
	want := []Value{
		{Name: "x", Kind: Numbers, DType: dtype.F32, Ranked: true, Shape: []Dim{{-1, "batch"}, {3, ""}, {-1, ""}}},
		{Name: "w", Kind: Numbers, DType: dtype.F32, Ranked: true, Shape: []Dim{{2, ""}}, Default: true},
		{Name: "one", Kind: Numbers, DType: dtype.I64, Ranked: true},
		{Name: "texts", Kind: Texts, Ranked: true, Shape: []Dim{{4, ""}}},
		{Name: "any", Kind: Numbers, DType: dtype.F16},
		{Name: "list", Kind: Other},
	}
	if d := cmp.Diff(want, g.Inputs); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Value{{Name: "y", Kind: Numbers, DType: dtype.BF16, Ranked: true, Shape: []Dim{{-1, ""}}}}, g.Outputs); d != "" {
		t.Error(d)
	}
	if f := g.Feeds(); len(f) != 5 || f[1].Name != "one" || !g.NBits {
		t.Errorf("feeds %+v, NBits %v", f, g.NBits)
	}
}

// raw gives what the model's own file holds.
func raw(m message) func(*Weight) ([]byte, error) {
	return func(w *Weight) ([]byte, error) {
		if w.File != InModel {
			return bytes.Repeat([]byte{9}, int(w.Bytes)), nil
		}
		return m[w.Offset : w.Offset+w.Bytes], nil
	}
}

// TestStripKeeps: where all weights are embedded the model is what it was.
func TestStripKeeps(t *testing.T) {
	small := func(name string) message { return onnxtest.Tensor(name, 1, 2).Raw([]byte{1, 2, 3, 4, 5, 6, 7, 8}) }
	branch := onnxtest.Graph([]message{small("b")}, onnxtest.Constant("c", small("c")))
	m := onnxtest.Model(onnxtest.Graph([]message{small("a")},
		onnxtest.Node("If", "y", "a").Bytes(5, onnxtest.Attribute("then_branch", 6, branch).Int(20, 5)),
		onnxtest.Node("ConstantOfShape", "z", "y").Bytes(5, onnxtest.Attribute("value", 5, small(""))),
	).Bytes(11, input("x", 1, "batch"))).
		Bytes(25, message{}.Text(1, "f").Bytes(7, onnxtest.Constant("k", small("k")))).
		Entry(14, "note", "kept")
	m = append(m, 0x6d, 1, 2, 3, 4) // a field of 4 bytes that nobody knows
	got, err := mustReadGraph(t, m).Strip(t.Context(), inMemory(m), raw(m))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, m) {
		t.Errorf("got  %x\nwant %x", got, m)
	}
}

// TestStrip takes the bytes of large weights away, wherever they are, and
// leaves those that ONNX Runtime must find in the model.
func TestStrip(t *testing.T) {
	large := func(name string) message { return onnxtest.Tensor(name, 1, 300).Raw(bytes.Repeat([]byte{7}, 1200)) }
	branch := onnxtest.Graph([]message{large("inner"), large("twice")}, onnxtest.Constant("constant", large("")),
		onnxtest.Node("Constant", "setting").Bytes(5, message{}.Text(1, "value_int").Int(3, 1).Int(20, 2)))
	m := onnxtest.Model(onnxtest.Graph([]message{
		large("own"), large("twice"), large("setting"),
		onnxtest.Tensor("small", 1, 2).Raw(make([]byte, 8)),
		onnxtest.Tensor("beside", 1, 2).External("data", 0, 8),
		onnxtest.Tensor("split", 7, 1000).Raw(make([]byte, 8000)),
		onnxtest.Tensor("table", 7, 10, 100).Raw(make([]byte, 8000)),
		onnxtest.Tensor("shape", 7, 2).Varints(7, 5, 6),
	}, onnxtest.Node("If", "y", "x").Bytes(5, onnxtest.Attribute("then_branch", 6, branch)))).
		Bytes(25, message{}.Text(1, "f").Bytes(7, onnxtest.Constant("of function", large(""))))
	g := mustReadGraph(t, m)
	embedded := map[string]bool{"twice": true, "setting": true, "small": true, "beside": true, "split": true, "shape": true, "of function": true}
	for _, w := range g.Weights {
		if w.Embedded != embedded[w.GraphName()] {
			t.Errorf("%s: embedded %v", w.GraphName(), w.Embedded)
		}
	}
	stripped, err := g.Strip(t.Context(), inMemory(m), raw(m))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(stripped, bytes.Repeat([]byte{7}, 1200)); n != 4 {
		t.Errorf("%d large weights are left, want those of twice, setting, and the function", n)
	}
	h := mustParse(t, stripped)
	for i, x := range h.Tensors {
		w := &g.Weights[i]
		if x.Name != w.Name || !slices.Equal(x.Shape, w.Shape) || x.DType != w.DType || x.Bytes != w.Bytes {
			t.Errorf("%+v, want %+v", x, w.Tensor)
		}
		if w.Embedded != (x.File == InModel) || !w.Embedded && (h.External[x.File] != Placeholder || x.Offset != placeholderOffset) {
			t.Errorf("%s lies in %d at %d", x.Name, x.File, x.Offset)
		}
	}
	if beside := tensorOf(t, h, "beside"); stripped[beside.Offset] != 9 {
		t.Error("the small tensor from beside the model is not what it was given")
	}
}

func TestStripRefuses(t *testing.T) {
	m := model(onnxtest.Tensor("t", 1, 2).Raw(make([]byte, 8)))
	g := mustReadGraph(t, m)
	if _, err := g.Strip(t.Context(), inMemory(append(m, 0x08, 1)), raw(m)); recovery.ClassOf(err) != recovery.SourceChanged {
		t.Errorf("a longer file: %v", err)
	}
	if _, err := g.Strip(t.Context(), inMemory(m), func(*Weight) ([]byte, error) { return nil, io.ErrUnexpectedEOF }); err == nil {
		t.Error("the error of data is lost")
	}
}

// FuzzStrip: what is stripped holds the same tensors as before.
func FuzzStrip(f *testing.F) {
	for _, m := range []message{
		model(onnxtest.Tensor("t", 1, 300).Raw(make([]byte, 1200)), onnxtest.Tensor("s", 7, 2).Varints(7, 5, 6)),
		onnxtest.Model(onnxtest.Graph(nil, onnxtest.Constant("c", onnxtest.Tensor("", 1, 300).Raw(make([]byte, 1200)))).
			Bytes(11, input("x", 1, "batch", 3))),
		realModel(1),
	} {
		f.Add([]byte(m))
	}
	const most = 1 << 20
	f.Fuzz(func(t *testing.T, m []byte) {
		g, err := ReadGraph(t.Context(), inMemory(m))
		if err != nil {
			return
		}
		for _, w := range g.Weights {
			if w.Embedded && w.Bytes > most {
				return
			}
		}
		stripped, err := g.Strip(t.Context(), inMemory(m), func(w *Weight) ([]byte, error) { return make([]byte, w.Bytes), nil })
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadGraph(t.Context(), inMemory(stripped))
		if err != nil {
			t.Fatalf("%v\n%x\n%x", err, m, stripped)
		}
		if len(again.Weights) != len(g.Weights) || !cmp.Equal(again.Inputs, g.Inputs) || !cmp.Equal(again.Outputs, g.Outputs) {
			t.Fatalf("%+v, want %+v", again, g)
		}
		for i := range g.Weights {
			a, b := &g.Weights[i], &again.Weights[i]
			if a.Name != b.Name || a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || a.Embedded != b.Embedded {
				t.Errorf("%+v, want %+v", b, a)
			}
		}
	})
}
