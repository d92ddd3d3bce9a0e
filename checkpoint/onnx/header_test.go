package onnx

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

type message = onnxtest.Message

func parse(b []byte) (*Header, error) { return Parse(bytes.NewReader(b), int64(len(b))) }

// model is a model whose graph has these initializers.
func model(initializers ...message) message { return onnxtest.Model(onnxtest.Graph(initializers)) }

// mustParse reads a model that must be right.
func mustParse(t testing.TB, m message) *Header {
	t.Helper()
	h, err := parse(m)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tensorOf(t testing.TB, h *Header, name string) Tensor {
	t.Helper()
	for _, x := range h.Tensors {
		if x.Name == name {
			return x
		}
	}
	t.Fatalf("no tensor %q among %+v", name, h.Tensors)
	return Tensor{}
}

// TestTypes reads each of ONNX's types, raw and in its own field.
func TestTypes(t *testing.T) {
	for number, typ := range types {
		if typ.name == "" {
			continue
		}
		const n = 5
		size, err := typ.dtype.PaddedBytes(n)
		if err != nil {
			t.Fatal(err)
		}
		raw := bytes.Repeat([]byte{0x3c}, int(size))
		m := model(onnxtest.Tensor("t", int64(number), n).Raw(raw))
		h := mustParse(t, m)
		x := h.Tensors[0]
		if x.DType != typ.dtype || x.Bytes != size || x.File != InModel || !bytes.Equal(m[x.Offset:x.Offset+x.Bytes], raw) {
			t.Errorf("%s: %+v", typ.name, x)
		}
		if typ.coded == 0 {
			m = model(onnxtest.Tensor("t", int64(number), n).Bytes(typ.field, raw))
			if x := mustParse(t, m).Tensors[0]; x.File != InModel || !bytes.Equal(m[x.Offset:x.Offset+x.Bytes], raw) {
				t.Errorf("%s in %s: %+v", typ.name, dataNames[typ.field], x)
			}
			continue
		}
		m = model(onnxtest.Tensor("t", int64(number), n).Varints(typ.field, make([]int64, size/typ.coded)...))
		if h := mustParse(t, m); h.Tensors[0].File != InValues || h.ValueBytes() != size {
			t.Errorf("%s in %s: %+v", typ.name, dataNames[typ.field], h.Tensors[0])
		}
	}
}

// TestGraphs finds weights wherever a model may hide them, and names them.
func TestGraphs(t *testing.T) {
	f32 := func(name string, dims ...int64) message {
		n, _ := dtype.Elements(dims)
		return onnxtest.Tensor(name, 1, dims...).Raw(make([]byte, 4*n))
	}
	deepest := onnxtest.Graph([]message{f32("w", 2, 2), f32("deep", 1)})
	branch := func(size int64) message {
		return onnxtest.Graph([]message{f32("w", size)}, onnxtest.Constant("c", f32("ignored", size, 2)),
			onnxtest.Node("Loop", "looped").Bytes(5, onnxtest.Attribute("body", 6, deepest)))
	}
	graph := onnxtest.Graph(
		[]message{f32("w", 3), f32("b", 4, 5), f32("head", 5, 6), f32("gemm", 6, 5), f32("twice", 1, 1)},
		onnxtest.Node("If", "chosen", "cond").Bytes(5, onnxtest.Attribute("then_branch", 6, branch(10))).Bytes(5, onnxtest.Attribute("else_branch", 6, branch(20))),
		onnxtest.Constant("constant", f32("", 7)),
		onnxtest.Node("ConstantOfShape", "filled", "shape").Bytes(5, onnxtest.Attribute("value", 5, f32("fill", 1))),
		onnxtest.Node("Constant", "other").Text(7, "com.example").Bytes(5, onnxtest.Attribute("value", 5, f32("x", 1))),
		onnxtest.Node("MatMul", "y", "x", "b"),
		onnxtest.Node("Gemm", "z", "y", "head"),
		onnxtest.Node("Gemm", "v", "z", "gemm").Bytes(5, message{}.Text(1, "transB").Int(3, 1)),
		onnxtest.Node("MatMul", "q", "v", "twice"),
		onnxtest.Node("Transpose", "r", "w"),
	)
	function := message{}.Text(1, "f").Bytes(7, onnxtest.Constant("c", f32("", 8))).Bytes(7, onnxtest.Constant("in function", f32("", 9)))
	training := message{}.Bytes(1, onnxtest.Graph([]message{f32("optimizer", 1)}))
	h := mustParse(t, onnxtest.Model(graph).Bytes(25, function).Bytes(20, training).Entry(14, "author", "nobody"))
	var got []string
	for _, x := range h.Tensors {
		s := fmt.Sprint(x.Name, x.Shape)
		if x.Transposed {
			s += " transposed"
		}
		got = append(got, s)
	}
	want := []string{ // nodes come before initializers
		"graph1/c[10 2]", "graph2/w[2 2]", "graph2/deep[1]", "graph1/w[10]",
		"graph3/c[20 2]", "graph4/w[2 2]", "graph4/deep[1]", "graph3/w[20]",
		"constant[7]", "w[3]", "b[4 5] transposed", "head[5 6] transposed", "gemm[6 5]", "twice[1 1] transposed",
		"graph5/c[8]", "in function[9]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if h.IRVersion != 10 || h.Quantized {
		t.Errorf("%+v", h)
	}
	for _, kv := range []KV{{"ir_version", "10"}, {"producer_name", "onnxtest"}, {"producer_version", "1.0"}, {"opset.ai.onnx", "21"}, {"author", "nobody"}} {
		if !cmp.Equal(kv, find(h, kv.Key)) {
			t.Errorf("%s is %q, want %q", kv.Key, find(h, kv.Key).Value, kv.Value)
		}
	}
}

func find(h *Header, key string) KV {
	for _, kv := range h.Metadata {
		if kv.Key == key {
			return kv
		}
	}
	return KV{}
}

// TestOrder reads fields in any order and form that protobuf allows.
func TestOrder(t *testing.T) {
	tensor := message{}.Bytes(9, make([]byte, 24)).Text(8, "t").Bytes(1, []byte{2, 3}).Text(99, "unknown").Int(98, -1).Int(2, 10).Int(2, 1)
	tensor = append(tensor, 0xfd, 6, 1, 2, 3, 4)             // field 111 of four bytes
	tensor = append(tensor, 0xf9, 6, 1, 2, 3, 4, 5, 6, 7, 8) // of eight
	constant := message{}.Bytes(5, message{}.Bytes(5, tensor).Text(1, "value")).Text(4, "Constant").Text(2, "c")
	m := message{}.Bytes(7, message{}.Bytes(5, tensor).Bytes(1, constant)).Int(1, 8).Bytes(7, onnxtest.Graph([]message{onnxtest.Tensor("u", 1, 0)}))
	h := mustParse(t, m)
	for _, name := range []string{"t", "c"} {
		if x := tensorOf(t, h, name); x.DType != dtype.F32 || !cmp.Equal(x.Shape, []int64{2, 3}) || x.Bytes != 24 {
			t.Errorf("%+v", x)
		}
	}
	if x := tensorOf(t, h, "u"); x.Bytes != 0 { // the second graph adds to the first
		t.Errorf("%+v", x)
	}
}

// TestRefusals gives each wrong or odd model its class and names the place.
func TestRefusals(t *testing.T) {
	f32 := func(dims ...int64) message { return onnxtest.Tensor("t", 1, dims...) }
	raw := func(n int) []byte { return make([]byte, n) }
	deep := func(n int) message {
		g := onnxtest.Graph([]message{f32(1).Raw(raw(4))})
		for range n {
			g = onnxtest.Graph(nil, onnxtest.Node("If", "x").Bytes(5, onnxtest.Attribute("then_branch", 6, g)))
		}
		return onnxtest.Model(g)
	}
	const invalid, unsupported = recovery.InvalidCheckpoint, recovery.Unsupported
	for name, c := range map[string]struct {
		model message
		want  recovery.Class
		says  string
	}{
		"nothing":                   {nil, invalid, "no graph"},
		"text":                      {message("It was a dark and stormy night."), invalid, ""},
		"no graph":                  {message{}.Int(1, 10), invalid, "no graph"},
		"no IR version":             {message{}.Bytes(7, onnxtest.Graph(nil)), invalid, "no IR version"},
		"no tensors":                {model: model()},
		"cut short":                 {model(f32(4).Raw(raw(16)))[:40], invalid, "truncated"},
		"a group":                   {append(onnxtest.Model(onnxtest.Graph(nil)), 0x83, 1, 0x84, 1), invalid, "form 3"},
		"field 0":                   {append(onnxtest.Model(onnxtest.Graph(nil)), 0, 0), invalid, "no number"},
		"endless varint":            {append(onnxtest.Model(onnxtest.Graph(nil)), bytes.Repeat([]byte{0xff}, 11)...), invalid, "no number"},
		"length of 2^64-1":          {append(onnxtest.Model(onnxtest.Graph(nil)), 0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), invalid, "claimed"},
		"no name":                   {model(onnxtest.Tensor("", 1, 1).Raw(raw(4))), invalid, "no name"},
		"name not UTF-8":            {model(onnxtest.Tensor("\xff", 1, 1).Raw(raw(4))), invalid, "UTF-8"},
		"name with a NUL":           {model(onnxtest.Tensor("a\x00", 1, 1).Raw(raw(4))), invalid, "UTF-8"},
		"long name":                 {model(onnxtest.Tensor(strings.Repeat("x", MaxTextBytes+1), 1, 1).Raw(raw(4))), unsupported, "4097 bytes"},
		"name twice":                {model(f32(1).Raw(raw(4)), f32(2).Raw(raw(8))), invalid, "twice"},
		"name of a constant":        {onnxtest.Model(onnxtest.Graph([]message{f32(1).Raw(raw(4))}, onnxtest.Constant("t", f32(1).Raw(raw(4))))), invalid, "twice"},
		"no type":                   {model(onnxtest.Tensor("t", 0, 1).Raw(raw(4))), invalid, "no type"},
		"type 27":                   {model(onnxtest.Tensor("t", 27, 1).Raw(raw(4))), unsupported, "27"},
		"type -1":                   {model(onnxtest.Tensor("t", -1, 1).Raw(raw(4))), unsupported, "number"},
		"texts":                     {model(onnxtest.Tensor("t", 8, 1).Text(6, "x")), unsupported, "texts"},
		"segment":                   {model(f32(1).Raw(raw(4)).Bytes(3, message{}.Int(1, 0))), unsupported, "segments"},
		"negative dimension":        {model(f32(-1).Raw(raw(4))), invalid, "negative"},
		"count overflows":           {model(f32(1<<32, 1<<32).Raw(raw(4))), invalid, "overflows"},
		"count overflows, by 0":     {model(f32(1<<32, 1<<32, 0).Raw(raw(0))), invalid, "overflows"},
		"size overflows":            {model(f32(1 << 61).Raw(raw(4))), invalid, "overflow"},
		"64 dimensions":             {model: model(f32(bytesTo(make([]int64, 63), 1)...).Raw(raw(0)))},
		"65 dimensions":             {model(f32(make([]int64, 65)...).Raw(raw(0))), unsupported, "64 dimensions"},
		"no data":                   {model(f32(1)), invalid, "no data"},
		"no data needed":            {model: model(f32(0))},
		"scalar":                    {model: model(f32().Raw(raw(4)))},
		"one byte short":            {model(f32(2).Raw(raw(7))), invalid, "7 bytes"},
		"one byte more":             {model(f32(2).Raw(raw(9))), invalid, "9 bytes"},
		"raw and typed":             {model(f32(2).Raw(raw(8)).Floats(1, 2)), invalid, "both"},
		"floats in int32_data":      {model(f32(2).Varints(5, 1, 2)), invalid, "int32_data"},
		"too few floats":            {model(f32(3).Floats(1, 2)), invalid, "8 bytes"},
		"floats in two parts":       {model(f32(4).Floats(1, 2).Floats(3, 4)), unsupported, "one piece"},
		"floats not packed":         {model(append(f32(1), 0x25, 0, 0, 0, 0)), unsupported, "one piece"},
		"integers not packed":       {model(onnxtest.Tensor("t", 7, 1).Int(7, 5)), unsupported, "one piece"},
		"too few integers":          {model(onnxtest.Tensor("t", 7, 3).Varints(7, 1, 2)), invalid, "not 3 numbers"},
		"too many integers":         {model(onnxtest.Tensor("t", 7, 1).Varints(7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)), invalid, "not 1 numbers"},
		"huge coded values":         {model(onnxtest.Tensor("t", 7, MaxValueBytes/8+1).Varints(7, 1)), unsupported, "raw data"},
		"sparse":                    {onnxtest.Model(onnxtest.Graph(nil).Bytes(15, message{})), unsupported, "sparse"},
		"sparse constant":           {onnxtest.Model(onnxtest.Graph(nil, onnxtest.Node("Constant", "s").Bytes(5, onnxtest.Attribute("sparse_value", 22, message{})))), unsupported, "sparse"},
		"graphs 16 deep":            {model: deep(MaxDepth)},
		"graphs 17 deep":            {deep(MaxDepth + 1), unsupported, "deeper"},
		"an inner name":             {onnxtest.Model(onnxtest.Graph([]message{f32(1).Raw(raw(4)), onnxtest.Tensor("graph1/t", 1, 0)}, onnxtest.Node("If", "x").Bytes(5, onnxtest.Attribute("then_branch", 6, onnxtest.Graph([]message{f32(1).Raw(raw(4))}))))), invalid, "inside a node"},
		"external and raw":          {model(f32(1).Raw(raw(4)).External("w", 0, 4)), invalid, "both"},
		"external, not said so":     {model(f32(1).Entry(13, "location", "w")), invalid, "no data"},
		"external":                  {model: model(f32(1).External("w", 0, 4).Entry(13, "checksum", "da39a3ee5e6b4b0d3255bfef95601890afd80709"))},
		"external, length wrong":    {model(f32(1).External("w", 0, 8)), invalid, "length"},
		"external, length left out": {model: model(f32(1).External("w", 0, -1))},
		"external, offset left out": {model: model(f32(1).External("w", -1, 4))},
		"external, offset text":     {model(f32(1).Entry(13, "location", "w").Entry(13, "offset", "four").Int(14, 1)), invalid, "offset"},
		"external, offset -4":       {model(f32(1).Entry(13, "location", "w").Entry(13, "offset", "-4").Int(14, 1)), invalid, "offset"},
		"external, offset 2^63":     {model(f32(1).Entry(13, "location", "w").Entry(13, "offset", "9223372036854775808").Int(14, 1)), invalid, "offset"},
		"external, offset 2^63-1":   {model(f32(1).Entry(13, "location", "w").Entry(13, "offset", "9223372036854775807").Int(14, 1)), invalid, "offset"},
		"external, length -4":       {model(f32(1).Entry(13, "location", "w").Entry(13, "length", "-4").Int(14, 1)), invalid, "length"},
		"external, nowhere":         {model(f32(1).Int(14, 1)), invalid, "no file inside"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := parse(c.model)
			if recovery.ClassOf(err) != c.want {
				t.Fatalf("got %+v, %v, want class %q", h, err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 500) {
				t.Errorf("%q is not one line that says %q", err, c.says)
			}
		})
	}
}

// bytesTo returns s with one more element.
func bytesTo(s []int64, n int64) []int64 { return append(s, n) }

// TestCutShort refuses every beginning of a good model, where it does not end
// between two fields.
func TestCutShort(t *testing.T) {
	m := onnxtest.Model(onnxtest.Graph([]message{onnxtest.Tensor("t", 1, 4).Raw(make([]byte, 16)), onnxtest.Tensor("u", 7, 2).Varints(7, 1, -1)}))
	whole := mustParse(t, m)
	for n := range m {
		h, err := parse(m[:n])
		if err == nil && !cmp.Equal(h.Tensors, whole.Tensors, cmpopts.IgnoreUnexported(Tensor{})) || err != nil && recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("the first %d of %d bytes: %+v, %v", n, len(m), h, err)
		}
	}
}
