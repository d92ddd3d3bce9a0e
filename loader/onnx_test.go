package loader

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

func rankDigests(m *model.Model) (d [][16]byte) {
	for _, r := range m.Report().Ranks {
		d = append(d, r.Digest)
	}
	return d
}

// TestLoadONNX places the same bytes from ONNX as from safetensors, whatever
// the layout and the scheme.
func TestLoadONNX(t *testing.T) {
	stories := testdata(t, "stories260K")
	for _, o := range [][]Option{
		nil,
		{WithLayout(shard.Layout{TP: 4})},
		{WithLayout(shard.Layout{TP: 2, PP: 2}), WithQuantization(quant.Config{Scheme: "int8"})},
		{WithQuantization(quant.Config{Scheme: "q8_0"})},
	} {
		want := load(t, filepath.Join(stories, "hf-f32"), o...)
		got := load(t, filepath.Join(stories, "onnx-external"), o...)
		if !slices.Equal(rankDigests(got), rankDigests(want)) {
			t.Errorf("ranks %x, from safetensors %x", rankDigests(got), rankDigests(want))
		}
		if a := got.Report().ReadAmplification(); a != 1 {
			t.Errorf("read amplification %g", a)
		}
	}
}

// copyFiles copies files into a folder.
func copyFiles(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// An ONNX model with the config.json of its folder says what it was trained
// to.
func TestONNXSpeaks(t *testing.T) {
	stories, dir := testdata(t, "stories260K"), t.TempDir()
	copyFiles(t, dir, filepath.Join(stories, "onnx-external", "model.onnx"), filepath.Join(stories, "onnx-external", "weights.bin"),
		filepath.Join(stories, "hf-f32", "config.json"))
	want := expectation(t, "expected.json", "hf-f32")
	for _, tp := range []int{1, 2} {
		m := load(t, dir, WithLayout(shard.Layout{TP: tp}))
		if got, _ := speak(t, m, want.Prompt, 100); !slices.Equal(got, want.Generated[:100]) {
			t.Errorf("tp %d: %v, want %v", tp, got, want.Generated[:100])
		}
	}
}

// transposedStories writes stories260K as exporters write a model whose linear
// layers became MatMul: their weights [in, out], here inline, and the shape of
// a Reshape as integers. It returns the folder and the weights as they were.
func transposedStories(t *testing.T) (string, map[string][]float32) {
	t.Helper()
	stories, dir := filepath.Join(testdata(t, "stories260K"), "hf-f32"), t.TempDir()
	src, err := source.Open(t.Context(), stories, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(stories, ix.Files[0].Name))
	if err != nil {
		t.Fatal(err)
	}
	weights := map[string][]float32{}
	var nodes, tensors []onnxtest.Message
	for _, x := range ix.Tensors {
		raw, shape := file[x.Offset:x.Offset+x.Bytes], x.Shape
		values := make([]float32, x.Bytes/4)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		if strings.HasSuffix(x.Name, "_proj.weight") {
			values, shape = transpose(values, shape), []int64{shape[1], shape[0]}
			raw = nil
			for _, f := range values {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
			}
			nodes = append(nodes, onnxtest.Node("MatMul", "y", "x", x.Name))
		}
		weights[x.Name] = values
		tensors = append(tensors, onnxtest.Tensor(x.Name, 1, shape...).Raw(raw))
	}
	tensors = append(tensors, onnxtest.Tensor("shape", 7, 3).Varints(7, 0, -1, 64))
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Model(onnxtest.Graph(tensors, nodes...)), 0o600); err != nil {
		t.Fatal(err)
	}
	copyFiles(t, dir, filepath.Join(stories, "config.json"))
	return dir, weights
}

func transpose(m []float32, shape []int64) []float32 {
	out := make([]float32, len(m))
	for r := range shape[0] {
		for c := range shape[1] {
			out[c*shape[0]+r] = m[r*shape[1]+c]
		}
	}
	return out
}

// TestLoadTransposed cuts weights that are stored [in, out] by the same rules,
// and joins them again; schemes that work along inputs leave them alone.
func TestLoadTransposed(t *testing.T) {
	dir, weights := transposedStories(t)
	for _, scheme := range []string{"none", "int8", "q8_0"} {
		m := load(t, dir, WithLayout(shard.Layout{TP: 4}), WithQuantization(quant.Config{Scheme: scheme}))
		for name, want := range weights {
			x, err := m.Vars().Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.Float32()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "_proj.weight") && !slices.Equal(got, want) {
				t.Errorf("%s: %s differs", scheme, name)
			}
		}
		shape, err := m.Vars().Tensor("shape")
		if err != nil {
			t.Fatal(err)
		}
		b, err := shape.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if want := []byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 64, 0, 0, 0, 0, 0, 0, 0}; shape.DType() != dtype.I64 || !slices.Equal(b, want) {
			t.Errorf("shape is % x of %s", b, shape.DType())
		}
		if err := m.Export(t.Context(), filepath.Join(t.TempDir(), "model.safetensors")); scheme == "none" && recovery.ClassOf(err) != recovery.Unsupported {
			t.Errorf("export: %v", err)
		}
	}
	// Each rank's part of a query projection is a quarter of its columns.
	p, err := New(WithLayout(shard.Layout{TP: 4})).Plan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range p.Tensors {
		if !strings.HasSuffix(x.Name, "q_proj.weight") && !strings.HasSuffix(x.Name, "o_proj.weight") {
			continue
		}
		for _, part := range p.Cover(i) {
			rows, cols := part.Slice.Rows.Len(), part.Slice.Cols.Len()
			if q := strings.HasSuffix(x.Name, "q_proj.weight"); q && (rows != 64 || cols != 16) || !q && (rows != 16 || cols != 64) {
				t.Errorf("%s: a rank holds %d rows and %d columns", x.Name, rows, cols)
			}
		}
	}
}

// TestConvolutionsAreChecked: a model without a product is multiplied too.
func TestConvolutionsAreChecked(t *testing.T) {
	raw := make([]byte, 4*8*3*5*5)
	for i := range len(raw) / 4 {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(float32(i%17)-8))
	}
	dir := t.TempDir()
	graph := onnxtest.Graph([]onnxtest.Message{onnxtest.Tensor("kernel", 1, 8, 3, 5, 5).Raw(raw), onnxtest.Tensor("bias", 1, 8).Raw(make([]byte, 32))},
		onnxtest.Node("Conv", "y", "x", "kernel", "bias"))
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Model(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := load(t, dir).Report().Ranks[0].Validation; !v.Ran || v.Tensor != "kernel" || v.Method != "wrapped" || v.Rows != 8 || v.MaxError > 1e-6 {
		t.Errorf("%+v", v)
	}
}
