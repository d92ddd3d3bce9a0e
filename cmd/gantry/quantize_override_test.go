package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
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
