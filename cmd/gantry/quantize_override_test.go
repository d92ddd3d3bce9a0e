package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/dtype"
)

// TestQuantizeOverrides: config.json says of a file what overrides have made
// of it: which modules are not quantized, and that an embedding is.
func TestQuantizeOverrides(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	const up, embed = "model.layers.0.mlp.up_proj", "model.embed_tokens"
	for _, c := range []struct {
		override        string
		targets, ignore []string // some of them
	}{
		{up + "=none", []string{"Linear"}, []string{"lm_head", up}},
		{embed + "=int8", []string{embed, up}, []string{"lm_head"}},
	} {
		dir := t.TempDir()
		if code, _, stderr := gantry(t, "quantize", stories, "--to", "int8", "--quant-override", c.override, "--out", filepath.Join(dir, "model.safetensors")); code != exit.Done {
			t.Fatalf("%s: exit %d: %s", c.override, code, stderr)
		}
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Quantization struct {
				Groups map[string]struct {
					Targets []string `json:"targets"`
				} `json:"config_groups"`
				Ignore []string `json:"ignore"`
			} `json:"quantization_config"`
		}
		if err := json.Unmarshal(data, &config); err != nil {
			t.Fatal(err)
		}
		q := config.Quantization
		for _, want := range c.targets {
			if got := q.Groups["group_0"].Targets; len(q.Groups) != 1 || !slices.Contains(got, want) {
				t.Errorf("%s: targets %v, want %s among them", c.override, got, want)
			}
		}
		for _, want := range c.ignore {
			if !slices.Contains(q.Ignore, want) {
				t.Errorf("%s: ignore %v, want %s among them", c.override, q.Ignore, want)
			}
		}
	}
}

// TestQuantizeWarns: what the plan of it warns of is told.
func TestQuantizeWarns(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	code, _, stderr := gantry(t, "quantize", stories, "--to", "int8", "--quant-override", "*.nothing=f16", "--out", filepath.Join(t.TempDir(), "model.safetensors"))
	if code != exit.Done || !strings.Contains(stderr, "warning: ") || !strings.Contains(stderr, "*.nothing") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// TestQuantizeBlocks: what a scheme for linear layers leaves in ggml's blocks
// is decoded for a safetensors file, which has no type for them.
func TestQuantizeBlocks(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "gguf", "stories260K-q8_0.gguf")
	dir := t.TempDir()
	if code, _, stderr := gantry(t, "quantize", stories, "--to", "int8", "--out", filepath.Join(dir, "model.safetensors")); code != exit.Done {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if code, _, stderr := gantry(t, "load", stories, "--once", "--quant", "int8", "--export", filepath.Join(dir, "loaded")); code != exit.Done {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, m := range []string{dir, filepath.Join(dir, "loaded")} {
		ix := mustJSON[inspection](t, "inspect", m, "--tensors")
		types := map[string]dtype.Type{}
		for _, x := range ix.Tensors {
			types[x.Name] = x.DType
		}
		if embed, up := types["model.embed_tokens.weight"], types["model.layers.0.mlp.up_proj.weight"]; embed != dtype.F32 || up != dtype.I8 {
			t.Errorf("%s: embeddings are %s, weights %s", m, embed, up)
		}
	}
	if code, _, stderr := gantry(t, "quantize", stories, "--to", "none", "--out", filepath.Join(dir, "again.safetensors")); code != exit.Checkpoint {
		t.Errorf("as stored: exit %d: %s", code, stderr)
	}
}
