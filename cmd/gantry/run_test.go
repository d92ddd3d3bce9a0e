package main

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/cmd/internal/values"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
)

// TestRun: what goes in as JSON or as a file comes out as JSON, as a table and
// as files.
func TestRun(t *testing.T) {
	model := filepath.Join(testdata(t), "stories260K", "onnx-external")
	r := mustJSON[runReport](t, "run", model, "--input", "x=0.5", "--dim", "n=2")
	if len(r.Inputs) != 1 || r.Inputs[0].Name != "x" || !slices.Equal(r.Inputs[0].Shape, []int64{2, 64}) || r.Device != "cpu" || r.BytesPlaced != 4*260032 {
		t.Errorf("%+v", r)
	}
	logits := r.Outputs[0]
	if len(r.Outputs) != 1 || logits.Name != "logits" || logits.DType != "F32" || !slices.Equal(logits.Shape, []int64{2, 512}) || len(logits.Values) != 1024 || logits.Omitted {
		t.Fatalf("%+v", logits)
	}
	if !slices.Equal(logits.Values[:512], logits.Values[512:]) {
		t.Error("two equal rows give other rows")
	}

	file := filepath.Join(t.TempDir(), "x.npy")
	x := ort.Tensor{Type: dtype.F32, Shape: []int64{1, 64}}
	for range 64 {
		x.Data = binary.LittleEndian.AppendUint32(x.Data, math.Float32bits(0.5))
	}
	if err := values.WriteNpy(file, x); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "new", "folder")
	one := mustJSON[runReport](t, "run", model, "--input", "x=0.5", "--dim", "n=1")
	again := mustJSON[runReport](t, "run", filepath.Join(model, "model.onnx"), "--input", "x="+file, "--output", out)
	if o := again.Outputs[0]; !slices.Equal(o.Values, one.Outputs[0].Values) || o.File != filepath.Join(out, "logits.npy") {
		t.Errorf("%+v", o)
	}
	if b, err := os.ReadFile(again.Outputs[0].File); err != nil || !strings.HasPrefix(string(b), "\x93NUMPY") || len(b) != 128+4*512 {
		t.Errorf("%d bytes, %v", len(b), err)
	}

	code, stdout, stderr := gantry(t, "run", model, "--input", "x=zeros", "--dim", "n=1")
	for _, part := range []string{"in place on cpu", "onnxruntime ", "OUTPUT", "logits", "F32", "[1 512]"} {
		if code != exit.Done || !strings.Contains(stdout, part) {
			t.Errorf("exit %d, no %q in\n%s%s", code, part, stdout, stderr)
		}
	}
}

// TestRunRefuses: one line that says what is wanted, before anything is loaded.
func TestRunRefuses(t *testing.T) {
	model := filepath.Join(testdata(t), "stories260K", "onnx-external")
	out := filepath.Join(t.TempDir(), "out")
	unknown := filepath.Join(t.TempDir(), "unknown.onnx")
	if err := os.WriteFile(unknown, onnxtest.Model(onnxtest.Graph(nil, onnxtest.Node("NoSuchOperator", "y"))), 0o600); err != nil {
		t.Fatal(err)
	}
	failing := filepath.Join(t.TempDir(), "failing.onnx") // an index beyond the data
	graph := onnxtest.Graph([]onnxtest.Message{onnxtest.Tensor("w", 1, 2).Raw(make([]byte, 8))}, onnxtest.Node("Gather", "y", "w", "i")).
		Bytes(11, onnxtest.Message{}.Text(1, "i").Bytes(2, onnxtest.Message{}.Bytes(1, onnxtest.Message{}.Int(1, 7).Bytes(2, nil)))).
		Bytes(12, onnxtest.Message{}.Text(1, "y"))
	if err := os.WriteFile(failing, onnxtest.Model(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want int
		says string
	}{
		{[]string{model}, exit.Usage, "x F32 [n,64] (give each as --input"},
		{[]string{model, "--input", "y=ones"}, exit.Usage, `no input "y"; its inputs: x F32 [n,64]`},
		{[]string{model, "--input", "x=[[1,2]]"}, exit.Usage, "x F32 [n,64]"},
		{[]string{model, "--input", "x=ones"}, exit.Usage, "--dim n=N"},
		{[]string{model, "--input", "x=nothing.npy"}, exit.Source, "nothing.npy"},
		{[]string{model, "--input", "x=ones", "--dim", "n=1", "--quant", "int8"}, exit.Usage, "int8"},
		{[]string{model, "--input", "x=ones", "--dim", "n=1", "--quant", "none", "--device", "cuda:0"}, exit.Capacity, "cuda"},
		{[]string{model, "--input", "x=ones", "--server", "nats://127.0.0.1:1"}, exit.Usage, "--server"},
		{[]string{filepath.Join(testdata(t), "stories260K", "hf-f32")}, exit.Checkpoint, "no graph to run"},
		{[]string{filepath.Join(t.TempDir(), "gone.onnx")}, exit.Source, "gone.onnx"},
		{[]string{unknown}, exit.Checkpoint, "NoSuchOperator"},
		{[]string{failing, "--input", "i=5"}, exit.Failed, "out of"},
	} {
		code, stdout, stderr := gantry(t, append([]string{"run", "--output", out}, c.args...)...)
		if code != c.want || stdout != "" || !strings.Contains(stderr, c.says) || strings.Count(strings.TrimSpace(stderr), "\n") != 0 {
			t.Errorf("%v: exit %d, want %d and one line that says %q: %s%s", c.args, code, c.want, c.says, stdout, stderr)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a run that failed left a folder behind")
	}
}

// TestRunNames: names of outputs never lead out of the folder, nor over each
// other.
func TestRunNames(t *testing.T) {
	var outputs []ort.Tensor
	for _, name := range []string{"y", "/a/b:0", "_a_b_0", "../../etc/passwd", "..", "", "Y", "ü", strings.Repeat("n", 500)} {
		outputs = append(outputs, ort.Tensor{Name: name})
	}
	names := fileNames(outputs)
	want := []string{"y.npy", "_a_b_0.npy", "2__a_b_0.npy", "3_.._.._etc_passwd.npy", "4_...npy", "5_.npy", "6_Y.npy", "_.npy", strings.Repeat("n", 200) + ".npy"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
