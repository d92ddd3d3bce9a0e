package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// mixtral writes a folder of one layer with four experts, and a module that no
// rule knows.
func mixtral(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var list []safetensors.Tensor
	add := func(name string, shape ...int64) {
		list = append(list, safetensors.Tensor{Name: name, DType: dtype.F16, Shape: shape})
	}
	add("model.embed_tokens.weight", 70, 64)
	add("model.layers.0.self_attn.q_proj.weight", 64, 64)
	add("model.layers.0.self_attn.k_proj.weight", 32, 64)
	add("model.layers.0.block_sparse_moe.gate.weight", 4, 64)
	for e := range 4 {
		p := fmt.Sprintf("model.layers.0.block_sparse_moe.experts.%d.", e)
		add(p+"w1.weight", 96, 64)
		add(p+"w2.weight", 64, 96)
		add(p+"w3.weight", 96, 64)
	}
	add("lm_head.weight", 70, 64)
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i, x := range list {
		b := make([]byte, 2*x.Shape[0]*x.Shape[1])
		for j := 0; j < len(b); j += 2 {
			b[j], b[j+1] = byte(r.Uint32()), byte(r.Uint32())&0xb0|0x0b // about 2^-13 to 2^-3
		}
		if err := w.WriteTensor(i, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	config := `{"model_type":"mixtral","hidden_size":64,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":96,
		"num_local_experts":4,"num_experts_per_tok":2,"max_position_embeddings":64,"rms_norm_eps":1e-5,"vocab_size":70}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestQuantizeLayouts: no layout changes a byte of what is written, with
// experts, rules and padding too.
func TestQuantizeLayouts(t *testing.T) {
	dir := mixtral(t)
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte("rules: ['*.q_proj=rowwise', '*.w2=replicated']"), 0o600); err != nil {
		t.Fatal(err)
	}
	for scheme, name := range map[string]string{"int8": "model.safetensors", "none": "model.safetensors", "q8_0": "model.gguf", "q4_K_M": "model.gguf"} {
		var first []byte
		for _, layout := range []string{"", "--tp 2", "--ep 2", "--ep 4 --tp 2 --dp 2", "--tp 4 --pad-vocab", "--tp 2 --ep 2 --pad-vocab=8 --rules " + rules} {
			out := filepath.Join(t.TempDir(), name)
			args := append([]string{"quantize", dir, "--to", scheme, "--out", out}, strings.Fields(layout)...)
			if code, _, stderr := gantry(t, args...); code != exit.Done {
				t.Fatalf("%s %s: exit %d: %s", scheme, layout, code, stderr)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = got
			}
			if !bytes.Equal(first, got) {
				t.Errorf("%s: %s changes the file", scheme, layout)
			}
		}
	}
}

// TestLoadExperts: a report says where in the layout each rank is; rules are
// part of what was asked for, and of the plan's digest.
func TestLoadExperts(t *testing.T) {
	dir := mixtral(t)
	rules := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(rules, []byte(`{"rules": [{"pattern": "*.k_proj", "rule": "replicated"}, "*.nothing=qkv"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := mustJSON[messages.Job](t, "load", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--once")
	for i, r := range plain.Ranks {
		if got := (shard.Layout{TP: 2, EP: 2, DP: 2}).Rank(r.DP, r.PP, r.EP, r.TP); got != i || r.Rank != i {
			t.Errorf("rank %d stands at %+v", i, r)
		}
	}
	if len(plain.Ranks) != 8 || plain.ReadAmplification != 1 {
		t.Errorf("%d ranks, read amplification %g", len(plain.Ranks), plain.ReadAmplification)
	}
	ruled := mustJSON[messages.Job](t, "load", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--rules", rules, "--once")
	planned := mustJSON[shard.Plan](t, "plan", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--rules", rules)
	if ruled.Plan == plain.Plan || len(ruled.Options.Rules) != 2 || len(planned.Options.Rules) != 2 {
		t.Errorf("plan %s, without rules %s; options %+v", ruled.Plan, plain.Plan, ruled.Options)
	}
	if len(ruled.Warnings) != 1 || !strings.Contains(ruled.Warnings[0], "*.nothing=qkv") {
		t.Errorf("warnings %q", ruled.Warnings)
	}
	if code, stdout, _ := gantry(t, "plan", dir, "--ep", "4"); code != exit.Done || !strings.Contains(stdout, "EP") || !strings.Contains(stdout, "layout     ep4") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}
