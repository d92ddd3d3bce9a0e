package values

import (
	"bytes"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// graph takes inputs of the given types and shapes; "n" is a named axis.
func graph(v ...onnx.Value) *onnx.Graph { return &onnx.Graph{Inputs: v} }

func input(name string, t dtype.Type, dims ...any) onnx.Value {
	v := onnx.Value{Name: name, Kind: onnx.Numbers, DType: t, Ranked: true}
	for _, d := range dims {
		switch d := d.(type) {
		case int:
			v.Shape = append(v.Shape, onnx.Dim{Size: int64(d)})
		case string:
			v.Shape = append(v.Shape, onnx.Dim{Size: -1, Name: d})
		}
	}
	return v
}

// numbers lists a tensor's elements.
func numbers(x ort.Tensor) (out []any) {
	n, err := dtype.Elements(x.Shape)
	if err != nil {
		return nil
	}
	for i := range int(n) {
		v := Number(x.Type, x.Data, i)
		if f, ok := v.(float32); ok {
			v = float64(f)
		}
		out = append(out, v)
	}
	return out
}

func TestInputs(t *testing.T) {
	for _, c := range []struct {
		in    onnx.Value
		spec  string
		dims  []string
		shape []int64
		want  []any
	}{
		{input("x", dtype.F32, 2, 2), "[[1,2],[3,-0.5]]", nil, []int64{2, 2}, []any{1.0, 2.0, 3.0, -0.5}},
		{input("x", dtype.F32, 2, 2), "[1,2,3,4]", nil, []int64{2, 2}, []any{1.0, 2.0, 3.0, 4.0}},
		{input("x", dtype.F32, "n", 2), "[1,2,3,4]", []string{"n=2"}, []int64{2, 2}, []any{1.0, 2.0, 3.0, 4.0}},
		{input("x", dtype.F32, "n", ""), "[[1],[2]]", nil, []int64{2, 1}, []any{1.0, 2.0}},
		{input("x", dtype.I64), "16000", nil, []int64{}, []any{int64(16000)}},
		{input("x", dtype.I64), "[7]", nil, []int64{}, []any{int64(7)}},
		{input("x", dtype.I64, 1), "9007199254740993", nil, []int64{1}, []any{int64(9007199254740993)}},
		{input("x", dtype.U8, "n"), "255", []string{"n=3"}, []int64{3}, []any{uint64(255), uint64(255), uint64(255)}},
		{input("x", dtype.Bool, 3), "[true,false,1]", nil, []int64{3}, []any{true, false, true}},
		{input("x", dtype.I4, 3), "[-8,7,-1]", nil, []int64{3}, []any{int64(-8), int64(7), int64(-1)}},
		{input("x", dtype.F16, 2), `[65504,"-Inf"]`, nil, []int64{2}, []any{65504.0, math.Inf(-1)}},
		{input("x", dtype.BF16, 1), "[3]", nil, []int64{1}, []any{3.0}},
		{input("x", dtype.F8E4M3, 1), "[-448]", nil, []int64{1}, []any{-448.0}},
		{input("x", dtype.F64, ""), "ones", []string{"x:0=2"}, []int64{2}, []any{1.0, 1.0}},
		{input("x", dtype.I32, 0, 4), "zeros", nil, []int64{0, 4}, nil},
		{input("x", dtype.F32, 0), "[]", nil, []int64{0}, nil},
		{onnx.Value{Name: "x", Kind: onnx.Numbers, DType: dtype.I8}, "[[1],[2]]", nil, []int64{2, 1}, []any{int64(1), int64(2)}},
	} {
		got, err := Inputs(graph(c.in), []string{"x=" + c.spec}, c.dims)
		if err != nil {
			t.Errorf("%s for %+v: %v", c.spec, c.in, err)
			continue
		}
		if x := got[0]; x.Name != "x" || x.Type != c.in.DType || !slices.Equal(x.Shape, c.shape) || !slices.Equal(numbers(x), c.want) {
			t.Errorf("%s for %+v: %+v, %v", c.spec, c.in, x, numbers(x))
		}
	}
}

// TestInputsRefused: each mistake is one line of class usage that says what is
// wanted.
func TestInputsRefused(t *testing.T) {
	x := input("x", dtype.F32, "n", 2)
	texts := onnx.Value{Name: "texts", Kind: onnx.Texts}
	for _, c := range []struct {
		inputs, dims []string
		says         string
	}{
		{nil, nil, "x F32 [n,2]"},
		{[]string{"x"}, nil, "NAME=FILE.npy"},
		{[]string{"y=ones"}, nil, `no input "y"; its inputs: x F32 [n,2]`},
		{[]string{"x=ones"}, nil, "--dim n=N"},
		{[]string{"x=ones"}, []string{"n=1", "m=2"}, "--dim m"},
		{[]string{"x=ones"}, []string{"n"}, "AXIS=N"},
		{[]string{"x=ones"}, []string{"n=-1"}, "AXIS=N"},
		{[]string{"x=ones"}, []string{"n=4611686018427387904"}, "too large"},
		{[]string{"x=random:a"}, []string{"n=1"}, "no number"},
		{[]string{"x=[[1,2],[3]]"}, nil, "differ in length"},
		{[]string{"x=[[1,2],3]"}, nil, "differ in length"},
		{[]string{"x=[1,2,3]"}, []string{"n=2"}, "3 values for the shape [2 2]; want x F32 [n,2]"},
		{[]string{"x=[[1,2,3]]"}, nil, "want x F32 [n,2]"},
		{[]string{"x=[[1,null]]"}, nil, "no number"},
		{[]string{`x=[["a",1]]`}, nil, "a is no number"},
		{[]string{"x=[[1e39,1]]"}, nil, "1e39 does not fit F32"},
		{[]string{"x=elsewhere"}, nil, "neither a .npy file"},
		{[]string{"x=ones", "x=ones"}, []string{"n=1"}, "given twice"},
		{[]string{"texts=[1]"}, nil, "only tensors of numbers"},
	} {
		v := []onnx.Value{x}
		if strings.HasPrefix(strings.Join(c.inputs, ""), "texts") {
			v = append(v, texts)
		}
		_, err := Inputs(graph(v...), c.inputs, c.dims)
		if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v %v: %v, want %q", c.inputs, c.dims, err, c.says)
		}
	}
	for _, c := range []struct{ spec, says string }{{"[300]", "300 is no integer"}, {"[1.5]", "1.5 is no integer"}, {"[-1]", "-1 is no integer"}} {
		if _, err := Inputs(graph(input("x", dtype.U8, 1)), []string{"x=" + c.spec}, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.spec, err, c.says)
		}
	}
	if _, err := Inputs(graph(x), []string{"x=/nonexistent/x.npy"}, nil); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestRandom: the seed alone decides, and numbers are small.
func TestRandom(t *testing.T) {
	for typ := range descrs {
		if typ == dtype.F4 || typ == dtype.F8E4M3FNUZ || typ == dtype.F8E5M2FNUZ {
			continue // no numbers here
		}
		g := graph(input("x", typ, 100))
		one, err := Inputs(g, []string{"x=random:1"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := Inputs(g, []string{"x=random:1"}, nil)
		other, _ := Inputs(g, []string{"x=random:2"}, nil)
		if !bytes.Equal(one[0].Data, again[0].Data) || bytes.Equal(one[0].Data, other[0].Data) {
			t.Errorf("%s: the seed does not decide", typ)
		}
		s := StatsOf(one[0])
		if limit := 9.0; s.NonFinite != 0 || s.Min < -limit || s.Max > limit || s.Min == s.Max || typ.Float() && (s.Min < -1 || s.Max > 1) {
			t.Errorf("%s: %+v", typ, s)
		}
	}
}

// TestNpy: what is written is read again, of every type and shape.
func TestNpy(t *testing.T) {
	for typ := range descrs {
		for _, shape := range [][]int64{{2, 3}, {5}, {}, {0, 3}} {
			n, err := dtype.Elements(shape)
			if err != nil {
				t.Fatal(err)
			}
			size, err := typ.PaddedBytes(n)
			if err != nil {
				t.Fatal(err)
			}
			x := ort.Tensor{Type: typ, Shape: shape, Data: make([]byte, size)}
			for i := range int(n) {
				putBits(x.Data, i, typ.Bits(), uint64(i&1))
			}
			path := filepath.Join(t.TempDir(), "x.npy")
			if err := WriteNpy(path, x); err != nil {
				t.Fatal(err)
			}
			got, err := readNpy(path, typ)
			if err != nil || !slices.Equal(got.Shape, shape) || !bytes.Equal(got.Data, x.Data) {
				t.Errorf("%s %v: %+v, %v", typ, shape, got, err)
			}
		}
	}
}

// npy is a file as NumPy writes it.
func npy(version byte, header string, data ...byte) []byte {
	b := append([]byte(npyMagic), version, 0, byte(len(header)), byte(len(header)>>8))
	if version > 1 {
		b = append(b, 0, 0)
	}
	return append(append(b, header...), data...)
}

func TestParseNpy(t *testing.T) {
	const vector = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }      \n"
	for _, version := range []byte{1, 2, 3} {
		x, err := parseNpy(npy(version, vector, 0, 0, 128, 63, 0, 0, 0, 64), dtype.F32)
		if err != nil || !slices.Equal(x.Shape, []int64{2}) || !slices.Equal(numbers(x), []any{1.0, 2.0}) {
			t.Errorf("version %d: %+v, %v", version, x, err)
		}
	}
	for says, b := range map[string][]byte{
		"no .npy file":          []byte("PK"),
		"version 9":             npy(9, vector),
		"truncated":             npy(1, vector)[:20],
		"want F32: <f4":         npy(1, strings.Replace(vector, "<f4", "<f8", 1), make([]byte, 16)...),
		"not that of one array": npy(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }"),
		"Fortran order":         npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", make([]byte, 16)...),
		"needs 2 of 4 bytes":    npy(1, vector, 1, 2, 3, 4),
		"9 bytes of elements":   npy(1, vector, make([]byte, 9)...),
		"is none":               npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }"),
	} {
		if _, err := parseNpy(b, dtype.F32); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if _, err := parseNpy(npy(1, "{'descr': '|i1', 'fortran_order': False, 'shape': (1,), }", 8), dtype.I4); err == nil {
		t.Error("8 fits no I4")
	}
}

// FuzzNpy: what is read has as many bytes as its shape needs, and is written
// and read again as it is.
func FuzzNpy(f *testing.F) {
	f.Add(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", make([]byte, 8)...), byte(dtype.F32))
	f.Add(npy(2, "{'descr': '|i1', 'fortran_order': False, 'shape': (1, 3), }", 1, 2, 3), byte(dtype.I4))
	f.Fuzz(func(t *testing.T, b []byte, typ byte) {
		x, err := parseNpy(b, dtype.Type(typ))
		if err != nil {
			return
		}
		n, err := dtype.Elements(x.Shape)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := x.Type.PaddedBytes(n); err != nil || size != int64(len(x.Data)) {
			t.Fatalf("%d bytes for %s %v: %v", len(x.Data), x.Type, x.Shape, err)
		}
		again, err := parseNpy(append(npyHeader(x), unpacked(x)...), x.Type)
		if err != nil || !slices.Equal(again.Shape, x.Shape) || !bytes.Equal(again.Data, x.Data) {
			t.Fatalf("%+v, %v, want %+v", again, err, x)
		}
	})
}

func TestStats(t *testing.T) {
	x := ort.Tensor{Type: dtype.F32, Shape: []int64{4}, Data: make([]byte, 16)}
	for i, s := range []string{"NaN", "2", "-1", "Inf"} {
		if err := put(x.Type, x.Data, i, s); err != nil {
			t.Fatal(err)
		}
	}
	if s := StatsOf(x); s != (Stats{Min: -1, Max: 2, Mean: 0.5, NonFinite: 2, Count: 4}) {
		t.Errorf("%+v", s)
	}
}

// FuzzInputs: what is taken is an input that the graph takes.
func FuzzInputs(f *testing.F) {
	for _, s := range []string{"[[1,2],[3,4]]", "[1,2]", "7", "random:5", "zeros", `["NaN",1]`, "[[],[]]", "[[1],[2,3]]"} {
		f.Add(s, byte(dtype.F32), int64(2))
	}
	f.Fuzz(func(t *testing.T, spec string, typ byte, n int64) {
		if strings.HasSuffix(spec, ".npy") || n > 1000 {
			return
		}
		v := input("x", dtype.Type(typ), "n", 2)
		in, err := Inputs(graph(v), []string{"x=" + spec}, []string{"n=" + strconv.FormatInt(n, 10)})
		if err != nil {
			if recovery.ClassOf(err) != recovery.Usage || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		count, err := dtype.Elements(in[0].Shape)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := v.DType.PaddedBytes(count); err != nil || size != int64(len(in[0].Data)) || len(in[0].Shape) != 2 || in[0].Shape[1] != 2 {
			t.Errorf("%+v, %v", in[0], err)
		}
	})
}
