package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/cmd/internal/values"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/device/ort/orttest"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/model/session"
)

// fetchedModels returns the folder of real models, which a script fetches.
func fetchedModels(t *testing.T) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command("../../scripts/onnx-models.sh")
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Logf("NOT ALL REAL MODELS COULD BE FETCHED:\n%s", errs.String())
	}
	return strings.TrimSpace(string(out))
}

// What may differ from ONNX Runtime with its default settings, relative to the
// output's largest number, and at all: fused operators and packed weights sum
// in another order. With the same settings nothing differs.
const (
	runTolerance = 1e-4
	runNoise     = 1e-6
)

// TestRunRealModels: gantry run gives, bit for bit, what plain ONNX Runtime
// gives for the same file.
func TestRunRealModels(t *testing.T) {
	dir := fetchedModels(t)
	ocr := func(height, width string) []string {
		return []string{"--input", "x=random:1", "--dim", "x:0=1", "--dim", "x:2=" + height, "--dim", "x:3=" + width}
	}
	silero := func(samples, rate string) []string {
		return []string{"--input", "input=random:1", "--dim", "input:0=1", "--dim", "input:1=" + samples,
			"--input", "state=random:2", "--dim", "state:1=1", "--input", "sr=" + rate}
	}
	for _, c := range []struct {
		model string
		args  []string
	}{
		{filepath.Join(testdata(t), "stories260K", "onnx-external", "model.onnx"), []string{"--input", "x=random:1", "--dim", "n=3"}},
		{"vad/silero_vad_legacy.onnx", []string{"--input", "input=random:1", "--dim", "batch=2", "--dim", "sequence=1536",
			"--input", "h=random:2", "--input", "c=random:3", "--input", "sr=16000"}},
		{"vad/silero_vad_v5.onnx", silero("512", "16000")},
		{"vad/silero_vad_v6.onnx", silero("256", "8000")}, // the other branch
		{"wakeword/melspectrogram.onnx", []string{"--input", "input=random:1", "--dim", "batch_size=1", "--dim", "samples=12640"}},
		{"wakeword/embedding_model.onnx", []string{"--input", "input_1=random:1", "--dim", "input_1:0=3"}},
		{"wakeword/alexa_v0.1.onnx", []string{"--input", "onnx::Flatten_0=random:1"}},
		{"ocr/ch_PP-OCRv4_det_infer.onnx", ocr("64", "96")},
		{"ocr/ch_PP-OCRv4_rec_infer.onnx", []string{"--input", "x=random:1", "--dim", "x:0=1", "--dim", "x:3=96"}},
		{"ocr/ch_ppocr_mobile_v2.0_cls_infer.onnx", ocr("48", "192")},
	} {
		t.Run(c.model, func(t *testing.T) {
			path := c.model
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, c.model)
			}
			if _, err := os.Stat(path); err != nil {
				t.Skipf("NOT RUN: %v: no registry was reachable", err)
			}
			out := t.TempDir()
			r := mustJSON[runReport](t, append([]string{"run", path, "--output", out}, c.args...)...)
			if r.WeightsInGraph > 64<<10 || r.WeightsInPlace+r.WeightsInGraph != r.BytesPlaced {
				t.Errorf("%d bytes of weights in place, %d in the graph, of %d", r.WeightsInPlace, r.WeightsInGraph, r.BytesPlaced)
			}
			compareWithPlain(t, path, c.args, r)
		})
	}
}

// compareWithPlain runs the file in plain ONNX Runtime and compares all outputs
// that a run wrote.
func compareWithPlain(t *testing.T, path string, args []string, r runReport) {
	t.Helper()
	inputs := plainInputs(t, path, args)
	var names []string
	for _, o := range r.Outputs {
		names = append(names, o.Name)
	}
	same, err := orttest.Plain(path, false, inputs, names)
	if err != nil {
		t.Fatal(err)
	}
	optimized, err := orttest.Plain(path, true, inputs, names)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range r.Outputs {
		file, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		got := file[len(file)-len(same[i].Data):]
		if !slices.Equal(o.Shape, same[i].Shape) || o.DType != same[i].Type.String() || !bytes.Equal(got, same[i].Data) {
			off, _ := difference(got, same[i].Data)
			t.Errorf("%s: %s %v differs from plain ONNX Runtime's %s %v by %.2g", o.Name, o.DType, o.Shape, same[i].Type, same[i].Shape, off)
		}
		off, largest := difference(got, optimized[i].Data)
		t.Logf("%s %s %v: up to %.2g; default settings differ by %.1g", o.Name, o.DType, o.Shape, largest, off)
		if !(off <= max(runTolerance*largest, runNoise)) {
			t.Errorf("%s: differs from ONNX Runtime with its default settings by %.2g of %.2g", o.Name, off, largest)
		}
	}
}

// plainInputs are the tensors that run's arguments stand for.
func plainInputs(t *testing.T, path string, args []string) []ort.Tensor {
	t.Helper()
	g, err := readGraph(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string][]string{}
	for i := 0; i < len(args); i += 2 {
		given[args[i]] = append(given[args[i]], args[i+1])
	}
	in, err := values.Inputs(g, given["--input"], given["--dim"])
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// difference is the largest between float32s, and the largest that is wanted.
func difference(got, want []byte) (off, largest float64) {
	at := func(b []byte, i int) float64 {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
	}
	if len(got) != len(want) {
		return math.Inf(1), 0
	}
	for i := range len(want) / 4 {
		off, largest = max(off, math.Abs(at(got, i)-at(want, i))), max(largest, math.Abs(at(want, i)))
	}
	return off, largest
}

// TestRunDebianModels: of ONNX's own test models, those that hold tensors and
// that plain ONNX Runtime runs give the same outputs, bit for bit.
func TestRunDebianModels(t *testing.T) {
	models, err := filepath.Glob(filepath.Join(fetchedModels(t), "node/data/*/*/model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if len(models) == 0 {
		t.Skip("NOT RUN: Debian's test data could not be fetched")
	}
	compared, lifted := 0, 0
	for _, path := range models {
		g, err := readGraph(t.Context(), path)
		if err != nil || len(g.Weights) == 0 {
			continue // texts and sparse tensors, which are refused, or nothing to place
		}
		args := make([]string, 0, len(g.Inputs))
		for _, v := range g.Feeds() {
			args = append(args, v.Name+"=random:1")
		}
		inputs, err := values.Inputs(g, args, nil)
		if err != nil {
			continue // an input that is no tensor of numbers
		}
		names, numbers := make([]string, len(g.Outputs)), true
		for i, v := range g.Outputs {
			names[i], numbers = v.Name, numbers && v.Kind == onnx.Numbers
		}
		if !numbers {
			continue // onnxruntime_go does not survive an option without a value
		}
		want, err := orttest.Plain(path, false, inputs, names)
		if err != nil {
			continue // not run by ONNX Runtime with such inputs, or not read back
		}
		m, err := loader.New().Load(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if out, ok := runLifted(t, m, inputs, names); ok {
			compareOutputs(t, path+", its floats lifted", out, want)
			lifted++
		}
		compareOutputs(t, path, runOnce(t, m, inputs), want)
		compared++
	}
	t.Logf("%d of %d models compared, %d of them with small floats in place too", compared, len(models), lifted)
	if compared < 80 || lifted < 60 {
		t.Errorf("only %d models compared, %d with small floats in place", compared, lifted)
	}
}

func compareOutputs(t *testing.T, what string, got, want []ort.Tensor) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i].Type != want[i].Type || !slices.Equal(got[i].Shape, want[i].Shape) || !bytes.Equal(got[i].Data, want[i].Data) {
			t.Errorf("%s: %v, want %v", what, got[i], want[i])
		}
	}
}

// runLifted runs a loaded model with its small floats used in place too, which
// tells for many operators that they take such weights. It reports false where
// a graph has none, or ONNX Runtime must find one in it.
func runLifted(t *testing.T, m *model.Model, inputs []ort.Tensor, outputs []string) ([]ort.Tensor, bool) {
	t.Helper()
	r, err := m.OpenFile(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	g, err := onnx.ReadGraph(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	data := func(w *onnx.Weight) ([]byte, error) {
		x, err := m.Vars().Tensor(w.Name)
		if err != nil {
			return nil, err
		}
		return x.Bytes()
	}
	parts := ort.Model{Placeholder: onnx.Placeholder, Outputs: outputs}
	for i := range g.Weights {
		w := &g.Weights[i]
		if !w.DType.Float() || w.Bytes == 0 {
			continue
		}
		b, err := data(w)
		if err != nil {
			t.Fatal(err)
		}
		w.Embedded = false
		parts.Weights = append(parts.Weights, ort.Tensor{Name: w.GraphName(), Type: w.DType, Shape: w.Shape, Data: b})
	}
	if parts.Proto, err = g.Strip(t.Context(), r, data); err != nil {
		t.Fatal(err)
	}
	if len(parts.Weights) == 0 {
		return nil, false
	}
	lib, err := ort.Open("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := lib.NewSession(parts)
	if err != nil {
		return nil, false
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	out, err := s.Run(t.Context(), inputs)
	if err != nil {
		t.Errorf("%s: %v", m.Metadata().Name, err)
	}
	return out, true
}

// runOnce runs a loaded model in a session of its own, and closes both.
func runOnce(t *testing.T, m *model.Model, inputs []ort.Tensor) []ort.Tensor {
	t.Helper()
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := session.Open(t.Context(), m)
	if err != nil {
		t.Errorf("%s: %v", m.Metadata().Name, err)
		return nil
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	out, err := s.Run(t.Context(), inputs)
	if err != nil {
		t.Errorf("%s: %v", m.Metadata().Name, err)
	}
	return out
}

// TestModelsArePinned: a package that is not the pinned one is never unpacked.
func TestModelsArePinned(t *testing.T) {
	root, commands := t.TempDir(), t.TempDir()
	text, err := os.ReadFile("../../scripts/onnx-models.sh")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(root, "scripts", "onnx-models.sh")
	for path, body := range map[string]string{
		script:                             string(text),
		filepath.Join(commands, "npm"):     "#!/bin/sh\necho evil > package.tgz\n",
		filepath.Join(commands, "apt-get"): "#!/bin/sh\n[ \"$2\" = download ] && echo evil > package.deb\n",
		filepath.Join(commands, "tar"):     "#!/bin/sh\necho RAN >&2\n",
		filepath.Join(commands, "dpkg"):    "#!/bin/sh\necho RAN >&2\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(script)
	cmd.Env = append(os.Environ(), "PATH="+commands+":"+os.Getenv("PATH"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err == nil || strings.Count(errs.String(), "is not what was pinned") != 4 || strings.Contains(errs.String(), "RAN") {
		t.Errorf("%v: %s", err, errs.String())
	}
	if left, err := os.ReadDir(filepath.Join(root, ".cache", "onnx-models")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
