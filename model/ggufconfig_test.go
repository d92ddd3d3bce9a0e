package model_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// A GPT-2 that went through GGUF, which has its projections [out, in], is the
// Hugging Face model again, [in, out], whatever the layout.
func TestExportGPT2FromGGUF(t *testing.T) {
	const prefix, qkv, fc = "transformer.", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight"
	dir := folder(t, `{"model_type": "gpt2", "n_positions": 2, "n_embd": 2, "n_layer": 1, "n_head": 2, "layer_norm_epsilon": 1e-5}`,
		stored{prefix + "wte.weight", []int64{3, 2}, 0}, stored{prefix + qkv, []int64{2, 6}, 10}, stored{prefix + fc, []int64{2, 8}, 30})
	file := filepath.Join(t.TempDir(), "x.gguf")
	if _, err := load(t, dir, "none", 1).ExportGGUF(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for _, tp := range []int{1, 2} {
		back := t.TempDir()
		if err := load(t, file, "none", tp).Export(t.Context(), back); err != nil {
			t.Fatal(err)
		}
		sameTensors(t, dir, back)
		if ix := index(t, back); ix.Architecture.Name != "gpt2" || ix.Architecture.Heads != 2 || ix.Architecture.Hidden != 2 {
			t.Errorf("tp %d: the export's config.json says %+v", tp, ix.Architecture)
		}
	}
	if err := load(t, file, "int8", 1).Export(t.Context(), t.TempDir()); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("int8, whose scales GPT-2's layout has no place for: %v", err)
	}
}

// A GGUF model that is exported to safetensors gets the config.json that its
// metadata says, and nothing that it does not.
func TestConfigOfGGUF(t *testing.T) {
	dir := t.TempDir()
	if err := load(t, stories(t, "gguf/stories260K-f32.gguf"), "f16", 2).Export(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	got, want := index(t, dir), index(t, stories(t, "hf-f16"))
	if got.Architecture != want.Architecture {
		t.Errorf("architecture %+v, want %+v", got.Architecture, want.Architecture)
	}
	var g, w map[string]json.RawMessage
	if err := json.Unmarshal(got.Config, &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want.Config, &w); err != nil {
		t.Fatal(err)
	}
	for key, value := range g {
		same := bytes.Equal(value, w[key]) || bytes.Equal(append(slices.Clone(value), ".0"...), w[key])
		if !same && key != "head_dim" {
			t.Errorf("%s is %s, want %s", key, value, w[key])
		}
	}
	scaled := folder(t, `{"model_type": "llama", "max_position_embeddings": 64, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 2, "num_attention_heads": 1,
		"rms_norm_eps": 1e-5, "rope_scaling": {"rope_type": "linear", "factor": 8}}`, stored{"model.embed_tokens.weight", []int64{3, 4}, 0})
	file := filepath.Join(t.TempDir(), "x.gguf")
	if _, err := load(t, scaled, "none", 1).ExportGGUF(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := load(t, file, "none", 1).Export(t.Context(), dir); err != nil || index(t, dir).Config != nil {
		t.Errorf("positions are scaled, which is not said: %s, %v", index(t, dir).Config, err)
	}
}
