package shard_test

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/shard"
)

// TestTPPlan follows a checkpoint's own plan where it says something, and the
// built-in rules elsewhere.
func TestTPPlan(t *testing.T) {
	s := stories(t, "hf-f32")
	s.ix.TPPlan = map[string]string{
		"layers.*.self_attn.q_proj": "colwise",
		"layers.*.self_attn.k_proj": "colwise",
		"layers.*.self_attn.o_proj": "rowwise",
		"layers.*.mlp.gate_proj":    "rowwise",    // not what the built-in rule does
		"layers.*.mlp.down_proj":    "replicated", // nor this
		"layers.*.mlp.up_proj":      "a style of tomorrow",
		"embed_tokens":              "rowwise",
		"layers.*.mlp.router":       "replicated",
	}
	p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: "int8"})
	if err != nil {
		t.Fatal(err)
	}
	checkJoin(t, t, s, p, load(t, t, s, p), 7)
	for suffix, want := range map[string]struct {
		rule   shard.Rule
		scheme string
	}{
		"q_proj.weight":                   {shard.Colwise, "int8"},
		"k_proj.weight":                   {shard.KVHeads, "int8"}, // colwise by whole heads
		"v_proj.weight":                   {shard.KVHeads, "int8"}, // not named
		"o_proj.weight":                   {shard.Rowwise, "int8"},
		"gate_proj.weight":                {shard.Rowwise, "int8"},
		"up_proj.weight":                  {shard.Colwise, "int8"}, // the style is not known
		"down_proj.weight":                {shard.Replicated, "int8"},
		"input_layernorm.weight":          {shard.Replicated, "none"},
		"model.embed_tokens.weight":       {shard.Vocab, "none"},
		"post_attention_layernorm.weight": {shard.Replicated, "none"},
	} {
		n := 0
		for _, x := range p.Tensors {
			if strings.HasSuffix(x.Name, suffix) {
				n++
				if x.Rule != want.rule || x.Scheme != want.scheme {
					t.Errorf("%s is %s in %s, want %s in %s", x.Name, x.Rule, x.Scheme, want.rule, want.scheme)
				}
			}
		}
		if n == 0 {
			t.Errorf("no tensor %s", suffix)
		}
	}
	warnings := strings.Join(p.Warnings, "\n")
	for _, says := range []string{"layers.*.mlp.router", "layers.*.mlp.up_proj (a style of tomorrow)"} {
		if !strings.Contains(warnings, says) {
			t.Errorf("no warning about %q: %q", says, p.Warnings)
		}
	}
}

// TestTPPlanUnknownFamily cuts by the plan what no built-in rule knows.
func TestTPPlanUnknownFamily(t *testing.T) {
	s := &stored{ix: stories(t, "hf-f32").ix}
	s.ix.Tensors, s.ix.Files, s.ix.Architecture.Name = nil, nil, "novel"
	s.ix.TPPlan = map[string]string{"blocks.*.widen": "colwise", "blocks.*.narrow": "rowwise", "wte": "embedding_rowwise"}
	s.add(0, 0, "wte.weight", dtype.F32, 10, 8)
	s.add(0, 0, "blocks.0.widen.weight", dtype.F32, 16, 8)
	s.add(0, 0, "blocks.0.widen.bias", dtype.F32, 16)
	s.add(0, 0, "blocks.0.narrow.weight", dtype.F32, 8, 16)
	s.add(0, 0, "blocks.0.narrow.bias", dtype.F32, 8)
	s.add(0, 0, "blocks.0.narrow.scale", dtype.F32, 8)
	s.add(0, 0, "blocks.0.norm.weight", dtype.F32, 8)
	s.fill(1)
	p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 2}})
	if err != nil {
		t.Fatal(err)
	}
	checkJoin(t, t, s, p, load(t, t, s, p), 3)
	want := map[string]shard.Rule{
		"wte.weight": shard.Vocab, "blocks.0.widen.weight": shard.Colwise, "blocks.0.widen.bias": shard.Colwise,
		"blocks.0.narrow.weight": shard.Rowwise, "blocks.0.narrow.bias": shard.Replicated,
		"blocks.0.narrow.scale": shard.Replicated, "blocks.0.norm.weight": shard.Replicated,
	}
	for _, x := range p.Tensors {
		if x.Rule != want[x.Name] {
			t.Errorf("%s is %s, want %s", x.Name, x.Rule, want[x.Name])
		}
	}
}
