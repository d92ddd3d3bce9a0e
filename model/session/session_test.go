package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	onnxruntime "github.com/yalue/onnxruntime_go"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/model/session"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

func stories(t *testing.T, elem ...string) string {
	t.Helper()
	dir := os.Getenv("GANTRY_TESTDATA")
	if dir == "" {
		dir = "../../../shared/testdata"
	}
	path := filepath.Join(append([]string{dir, "stories260K"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nset GANTRY_TESTDATA to the folder with the shared test data", err)
	}
	return path
}

func load(t *testing.T, path string, o ...loader.Option) *model.Model {
	t.Helper()
	m, err := loader.New(o...).Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func open(t *testing.T, m *model.Model) *session.Session {
	t.Helper()
	s, err := session.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// hidden is a batch of rows as wide as the stories model.
func hidden(rows int64) ort.Tensor {
	x := ort.Tensor{Name: "x", Type: dtype.F32, Shape: []int64{rows, 64}, Data: make([]byte, rows*64*4)}
	for i := range x.Data {
		x.Data[i] = byte(i * 7 % 61) // small numbers, all finite
	}
	return x
}

// plain runs a file in ONNX Runtime alone, with the same settings.
func plain(t *testing.T, path string, in ort.Tensor, output string) []byte {
	t.Helper()
	o, err := onnxruntime.NewSessionOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Destroy()
	if err := o.SetGraphOptimizationLevel(onnxruntime.GraphOptimizationLevelDisableAll); err != nil {
		t.Fatal(err)
	}
	s, err := onnxruntime.NewDynamicAdvancedSession(path, []string{in.Name}, []string{output}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy()
	x, err := onnxruntime.NewCustomDataTensor(in.Shape, in.Data, onnxruntime.TensorElementDataTypeFloat)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Destroy()
	out := []onnxruntime.Value{nil}
	if err := s.Run([]onnxruntime.Value{x}, out); err != nil {
		t.Fatal(err)
	}
	defer out[0].Destroy()
	var b bytes.Buffer
	for _, f := range out[0].(*onnxruntime.Tensor[float32]).GetData() {
		b.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(f)))
	}
	return b.Bytes()
}

// TestStories: a graph over placed weights gives what ONNX Runtime gives for
// the file, bit for bit.
func TestStories(t *testing.T) {
	dir := stories(t, "onnx-external")
	s := open(t, load(t, dir))
	in := hidden(3)
	out, err := s.Run(t.Context(), []ort.Tensor{in})
	if err != nil {
		t.Fatal(err)
	}
	name := s.Graph().Outputs[0].Name
	if len(out) != 1 || out[0].Name != name || !bytes.Equal(out[0].Data, plain(t, filepath.Join(dir, "model.onnx"), in, name)) {
		t.Errorf("%+v", out)
	}
}

// TestHeld: a model is not closed under a session.
func TestHeld(t *testing.T) {
	m, err := loader.New().Load(t.Context(), stories(t, "onnx-external"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("closing a model in use: %v, want class usage", err)
	}
	if _, err := s.Run(t.Context(), []ort.Tensor{hidden(1)}); err != nil {
		t.Errorf("after a Close that failed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := session.Open(t.Context(), m); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("a session of a closed model: %v, want class stale", err)
	}
}

// TestOpenRefuses says what cannot be run, and leaves nothing held.
func TestOpenRefuses(t *testing.T) {
	external := stories(t, "onnx-external")
	changed := t.TempDir()
	if err := os.CopyFS(changed, os.DirFS(external)); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(t.TempDir(), "model.onnx")
	graph := onnxtest.Graph([]onnxtest.Message{onnxtest.Tensor("w", 1, 2).Raw(make([]byte, 8))}, onnxtest.Node("NoSuchOperator", "y", "w"))
	if err := os.WriteFile(unknown, onnxtest.Model(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		options    []loader.Option
		spoil      func() error
		class      recovery.Class
	}{
		{"safetensors", stories(t, "hf-f32"), nil, nil, recovery.Unsupported},
		{"two ranks", external, []loader.Option{loader.WithLayout(shard.Layout{TP: 2})}, nil, recovery.Usage},
		{"cast", external, []loader.Option{loader.WithDType(dtype.BF16)}, nil, recovery.Usage},
		{"changed", changed, nil, func() error { return os.WriteFile(filepath.Join(changed, "model.onnx"), []byte("x"), 0o600) }, recovery.SourceChanged},
		{"unknown operator", unknown, nil, nil, recovery.Unsupported},
	} {
		m := load(t, c.path, c.options...)
		if c.spoil != nil {
			if err := os.Chmod(filepath.Join(changed, "model.onnx"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := session.Open(t.Context(), m); recovery.ClassOf(err) != c.class {
			t.Errorf("%s: %v, want class %s", c.name, err, c.class)
		}
	}
}

// TestCheckInputs: each mistake is one line that says what is wanted.
func TestCheckInputs(t *testing.T) {
	s := open(t, load(t, stories(t, "onnx-external")))
	wide, narrow, integers := hidden(1), hidden(1), hidden(1)
	wide.Shape = []int64{1, 1, 64}
	narrow.Shape, narrow.Data = []int64{1, 63}, narrow.Data[4:]
	integers.Type = dtype.I32
	other := hidden(1)
	other.Name = "z"
	for name, in := range map[string][]ort.Tensor{
		"missing": nil, "dimensions": {wide}, "shape": {narrow}, "type": {integers}, "name": {other}, "twice": {hidden(1), hidden(1)},
	} {
		_, err := s.Run(t.Context(), in)
		if recovery.ClassOf(err) != recovery.Usage || !slices.Contains([]bool{name == "twice", bytes.Contains([]byte(err.Error()), []byte("x F32 ["))}, true) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInPlace: what changes in the arena changes what comes out: no weight was
// copied.
func TestInPlace(t *testing.T) {
	m := load(t, stories(t, "onnx-external"))
	s := open(t, m)
	in := hidden(2)
	if _, err := s.Run(t.Context(), []ort.Tensor{in}); err != nil {
		t.Fatal(err)
	}
	for _, w := range s.Graph().Weights {
		x, err := m.Vars().Tensor(w.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := x.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		clear(b)
	}
	out, err := s.Run(t.Context(), []ort.Tensor{in})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out[0].Data, make([]byte, len(out[0].Data))) {
		t.Error("the product with a matrix of zeros is not zero")
	}
}

// TestNBits: a graph of ONNX Runtime's 4-bit products runs with its kernels'
// packing, as it does in ONNX Runtime alone.
func TestNBits(t *testing.T) {
	const rows, cols, block = 64, 64, 32
	codes, scales := make([]byte, rows*cols/2), []byte(nil)
	for i := range codes {
		codes[i] = byte(i * 37)
	}
	for i := range rows * cols / block {
		scales = binary.LittleEndian.AppendUint32(scales, math.Float32bits(float32(i%7+1)/64))
	}
	value := func(name string, width int64) onnxtest.Message {
		shape := onnxtest.Message{}.Bytes(1, onnxtest.Message{}.Text(2, "n")).Bytes(1, onnxtest.Message{}.Int(1, width))
		return onnxtest.Message{}.Text(1, name).Bytes(2, onnxtest.Message{}.Bytes(1, onnxtest.Message{}.Int(1, 1).Bytes(2, shape)))
	}
	product := onnxtest.Node("MatMulNBits", "y", "x", "codes", "scales").Text(7, "com.microsoft")
	for name, v := range map[string]int64{"K": cols, "N": rows, "bits": 4, "block_size": block} {
		product = product.Bytes(5, onnxtest.Message{}.Text(1, name).Int(3, v).Int(20, 2))
	}
	graph := onnxtest.Graph([]onnxtest.Message{
		onnxtest.Tensor("codes", 2, rows, cols/block, block/2).Raw(codes),
		onnxtest.Tensor("scales", 1, rows*cols/block).Raw(scales),
	}, product).Bytes(11, value("x", cols)).Bytes(12, value("y", rows))
	path := filepath.Join(t.TempDir(), "model.onnx")
	model := onnxtest.Model(graph).Bytes(8, onnxtest.Message{}.Text(1, "com.microsoft").Int(2, 1))
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, load(t, path))
	in := hidden(3)
	out, err := s.Run(t.Context(), []ort.Tensor{in})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Graph().NBits || !bytes.Equal(out[0].Data, plain(t, path, in, "y")) {
		t.Errorf("NBits %v, %+v", s.Graph().NBits, out)
	}
}

// TestRunEnds: a run ends with its context.
func TestRunEnds(t *testing.T) {
	s := open(t, load(t, stories(t, "onnx-external")))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(os.ErrDeadlineExceeded)
	if out, err := s.Run(ctx, []ort.Tensor{hidden(1)}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := s.Run(t.Context(), []ort.Tensor{hidden(1)}); err != nil {
		t.Errorf("the next run: %v", err)
	}
}
