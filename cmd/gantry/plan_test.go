package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// schemes returns what each tensor of a plan becomes, by name.
func schemes(p shard.Plan) map[string]string {
	out := map[string]string{}
	for _, t := range p.Tensors {
		out[t.Name] = t.Scheme
	}
	return out
}

// TestPlanShowsWhatTensorsBecome: in sum, one by one, and in the JSON.
func TestPlanShowsWhatTensorsBecome(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	args := []string{"plan", stories, "--quant", "int8", "--quant-override", "model.layers.0=none", "--quant-override", "*.embed_tokens=q8_0", "--quant-override", "nobody=f16"}
	code, stdout, stderr := gantry(t, append(args, "--tensors")...)
	if code != exit.Done {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, line := range []string{
		"int8     28       708.00 KiB  186.38 KiB",
		"q8_0     1        128.00 KiB  34.00 KiB",
		"[512 64]  vocab       F32     q8_0     34.00 KiB  override 2, *.embed_tokens=q8_0",
		"override 1, model.layers.0=none",
		"int8: weight of a linear layer",
		"override 3, nobody=f16, matches no tensor",
	} {
		if !strings.Contains(stdout, line) {
			t.Errorf("no %q in\n%s", line, stdout)
		}
	}
	p := mustJSON[shard.Plan](t, args...)
	got := schemes(p)
	if got["model.layers.0.mlp.up_proj.weight"] != "none" || got["model.layers.1.mlp.up_proj.weight"] != "int8" || len(p.Warnings) != 1 {
		t.Errorf("%v, warnings %q", got, p.Warnings)
	}
	for _, tensor := range p.Tensors {
		if tensor.Why == "" {
			t.Errorf("nothing says why %s becomes %s", tensor.Name, tensor.Scheme)
		}
	}
}

// TestRecipe: a mixture over rows that do not divide falls back, and loads;
// over rows of 256 it gives the layers different types.
func TestRecipe(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	args := []string{stories, "--quant", "q4_K_M", "--tp", "2", "--quant-override", "*.0.self_attn.q_proj=q8_0"}
	p := mustJSON[shard.Plan](t, append([]string{"plan"}, args...)...)
	j := mustJSON[messages.Job](t, append([]string{"load", "--once", "--validate"}, args...)...)
	if j.State != messages.StateReady || j.Validation.State != "passed" || j.Plan != p.Digest() || j.BytesPlaced != p.PlacedBytes {
		t.Errorf("report %+v, of a plan %s that places %d bytes", j, p.Digest(), p.PlacedBytes)
	}
	if len(j.Fallbacks) != 34 {
		t.Errorf("%d fallbacks, want one for each matrix of a layer but the one that is overridden: %v", len(j.Fallbacks), j.Fallbacks)
	}

	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8,
		"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := gantry(t, "synth", filepath.Join(dir, "model"), "--config", config); code != exit.Done {
		t.Fatalf("synth: exit %d: %s", code, stderr)
	}
	p = mustJSON[shard.Plan](t, "plan", filepath.Join(dir, "model"), "--quant", "q4_K_M")
	got := schemes(p)
	var down []string
	for l := range 8 {
		down = append(down, got["model.layers."+string(rune('0'+l))+".mlp.down_proj.weight"])
	}
	// The first eighth, the last, and every third in between.
	if want := []string{"q6_K", "q4_K", "q4_K", "q6_K", "q4_K", "q4_K", "q6_K", "q6_K"}; !slices.Equal(down, want) || len(p.Fallbacks) != 0 {
		t.Errorf("down projections become %v, want %v; fallbacks %v", down, want, p.Fallbacks)
	}
	if got["lm_head.weight"] != "q6_K" || got["model.embed_tokens.weight"] != "q4_K" || got["model.norm.weight"] != "f32" {
		t.Errorf("%v", got)
	}
}

// TestQuantConfig: a file says what tensors become, flags go before it, and
// what is wrong with it is one line that names file and key.
func TestQuantConfig(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "q.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const text = `
scheme: int4
group_size: 32
keep_original: true
skip: [model.layers.0]
overrides:
  - {pattern: "*.down_proj", scheme: int8}
`
	const up, down, embed = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"
	got := schemes(mustJSON[shard.Plan](t, "plan", stories, "--quant-config", file(text)))
	if got[up] != "custom:bits=4,symmetric=true,group=32+original" || got[down] != "int8+original" ||
		got["model.layers.0.mlp.up_proj.weight"] != "none" || got[embed] != "none" {
		t.Errorf("%v", got)
	}
	args := []string{stories, "--quant-config", file(text), "--quant", "q8_0", "--quant-override", down + "=f16", "--quant-override", "*.embed_tokens=q4_0"}
	p := mustJSON[shard.Plan](t, append([]string{"plan"}, args...)...)
	if got := schemes(p); got[up] != "q8_0+original" || got[down] != "f16+original" || got["model.layers.2.mlp.down_proj.weight"] != "int8+original" || got[embed] != "q4_0+original" {
		t.Errorf("%v", got)
	}
	if j := mustJSON[messages.Job](t, append([]string{"load", "--once"}, args...)...); j.Plan != p.Digest() {
		t.Errorf("load has plan %s, plan shows %s", j.Plan, p.Digest())
	}
	small := mustJSON[messages.Job](t, "load", stories, "--once", "--tp", "2", "--quant-config", file("{scheme: int8, in_place: true}"))
	usual := mustJSON[messages.Job](t, "load", stories, "--once", "--tp", "2", "--quant", "int8")
	if small.PeakStagingBytes >= usual.PeakStagingBytes || small.Plan != usual.Plan || small.Ranks[1].Digest != usual.Ranks[1].Digest {
		t.Errorf("in place stages %d bytes, otherwise %d; plans %s and %s", small.PeakStagingBytes, usual.PeakStagingBytes, small.Plan, usual.Plan)
	}
	for text, says := range map[string]string{"shceme: q8_0": `"shceme"`, "scheme: q9": "q8_0", "overrides: ['*=q4_K_M']": "overrides[0]"} {
		path := file(text)
		code, _, stderr := gantry(t, "load", stories, "--quant-config", path)
		if line := lastLine(stderr); code != exit.Usage || !strings.Contains(line, path) || !strings.Contains(line, says) {
			t.Errorf("%s: exit %d, %s; want %d and a line that names the file and says %s", text, code, line, exit.Usage, says)
		}
	}
}
