package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// TestInspect: the documented fields, and the parameter count.
func TestInspect(t *testing.T) {
	in := mustJSON[inspection](t, "inspect", filepath.Join(testdata(t), "stories260K", "hf-bf16"))
	if in.Format != "safetensors" || in.Architecture != "llama" || in.Parameters != 260032 || in.Bytes != 2*260032 || in.Quantized || len(in.Tensors) != 47 {
		t.Errorf("%+v", in)
	}
}

// TestONNX: an ONNX model is shown, planned and loaded, as a file and as a
// folder.
func TestONNX(t *testing.T) {
	folder := filepath.Join(testdata(t), "stories260K", "onnx-external")
	for _, model := range []string{folder, filepath.Join(folder, "model.onnx")} {
		in := mustJSON[inspection](t, "inspect", model)
		if in.Format != "onnx" || in.Architecture != "llama" || in.Parameters != 260032 || in.Bytes != 4*260032 || in.Quantized || len(in.Tensors) != 47 || in.Metadata["producer_name"] != "own-script" {
			t.Errorf("%+v", in)
		}
		if p := mustJSON[shard.Plan](t, "plan", model, "--tp", "2"); p.ReadBytes != in.Bytes || len(p.Ranks) != 2 {
			t.Errorf("plan reads %d bytes for %d ranks", p.ReadBytes, len(p.Ranks))
		}
		if j := mustJSON[messages.Job](t, "load", model, "--once", "--tp", "2", "--quant", "q8_0"); j.State != messages.StateReady || j.ReadAmplification != 1 {
			t.Errorf("report %+v", j)
		}
	}
	code, _, stderr := gantry(t, "load", filepath.Join(folder, "weights.bin"), "--once")
	if code != exit.Checkpoint || !strings.Contains(lastLine(stderr), "weights.bin") {
		t.Errorf("weights alone: exit %d, %s", code, stderr)
	}
}

// TestGGUF: a GGUF file is shown, loaded and decoded; what safetensors cannot
// hold of it is refused before it is loaded.
func TestGGUF(t *testing.T) {
	file := filepath.Join(testdata(t), "stories260K", "gguf", "stories260K-q8_0.gguf")
	in := mustJSON[inspection](t, "inspect", file)
	if in.Format != "gguf" || in.Architecture != "llama" || in.Parameters != 260032 || !in.Quantized || len(in.Tensors) != 47 || in.DTypes["Q8_0"] == 0 {
		t.Errorf("%+v", in)
	}
	code, stdout, _ := gantry(t, "inspect", file)
	for _, line := range []string{"tokenizer      llama", "context        512 tokens", "quantized      true"} {
		if code != exit.Done || !strings.Contains(stdout, line) {
			t.Errorf("exit %d, no %q in\n%s", code, line, stdout)
		}
	}
	if r := mustJSON[messages.Job](t, "load", file, "--once", "--tp", "2"); r.State != messages.StateReady || r.ReadAmplification != 1 {
		t.Errorf("%+v", r)
	}
	out := filepath.Join(t.TempDir(), "m.safetensors")
	if code, _, stderr := gantry(t, "quantize", file, "--to", "f32", "--out", out); code != exit.Done {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if in := mustJSON[inspection](t, "inspect", out); in.Parameters != 260032 || in.Quantized || in.DTypes["F32"] != in.Bytes {
		t.Errorf("%+v", in)
	}
	if code, _, stderr := gantry(t, "quantize", file, "--to", "none", "--out", out); code != exit.Checkpoint || !strings.Contains(lastLine(stderr), "Q8_0") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
