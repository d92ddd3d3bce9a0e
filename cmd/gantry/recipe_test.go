package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/quant"
)

// TestRecipesAreLlamas holds that quantize writes, for every recipe and
// through two ranks, the tensors that llama.cpp's own quantizer makes of the
// same model, byte for byte. Rows of its down projections divide by 32 only.
func TestRecipesAreLlamas(t *testing.T) {
	data, err := os.ReadFile("testdata/recipes.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if recipe, digest, ok := strings.Cut(line, " "); ok && recipe != "#" {
			want[recipe] = digest
		}
	}
	dir := t.TempDir()
	config, model := filepath.Join(dir, "config.json"), filepath.Join(dir, "model")
	if err := os.WriteFile(config, []byte(`{"model_type": "llama", "hidden_size": 256, "intermediate_size": 288, "num_hidden_layers": 8,
		"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := gantry(t, "synth", model, "--config", config, "--dtype", "f32"); code != exit.Done {
		t.Fatalf("synth: exit %d: %s", code, stderr)
	}
	for _, recipe := range quant.Recipes() {
		out := filepath.Join(dir, recipe+".gguf")
		if code, _, stderr := gantry(t, "quantize", model, "--to", recipe, "--tp", "2", "--out", out); code != exit.Done {
			t.Fatalf("%s: exit %d: %s", recipe, code, stderr)
		}
		if got := ggufDigest(t, out); got != want[recipe] {
			t.Errorf("%s: the tensors have digest %s, llama.cpp's %s", recipe, got, want[recipe])
		}
	}
}

// ggufDigest is the SHA-256 of the bytes of a file's tensors, in the order of
// their names.
func ggufDigest(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(h.Tensors, func(x, y gguf.Tensor) int { return strings.Compare(x.Name, y.Name) })
	sum := sha256.New()
	for _, x := range h.Tensors {
		sum.Write(b[x.Offset : x.Offset+x.Bytes])
	}
	return hex.EncodeToString(sum.Sum(nil))
}
