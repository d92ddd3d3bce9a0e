package shard_test

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
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

// transformersStyles are the styles that transformers registers, from version
// 4.50 to 5 (integrations/tensor_parallel.py, ParallelInterface), with what
// each does with a weight of a linear layer, [out, in].
var transformersStyles = map[string]shard.Rule{
	"colwise": shard.Colwise, "colwise_rep": shard.Colwise, "colwise_gather_output": shard.Colwise, "local_colwise": shard.Colwise,
	"rowwise": shard.Rowwise, "rowwise_rep": shard.Rowwise, "rowwise_split_input": shard.Rowwise, "local_rowwise": shard.Rowwise,
	"packed_colwise": shard.PackedColwise, "packed_rowwise": shard.PackedRowwise, "local_packed_rowwise": shard.PackedRowwise,
	"embedding_rowwise": shard.Vocab, "embedding_colwise": shard.Rowwise,
	"sequence_parallel": shard.Replicated, "replicate": shard.Replicated, "replicated_with_grad_allreduce": shard.Replicated,
	"local": shard.Replicated, "gather": shard.Replicated, "grouped_gemm": shard.Replicated, "ep_router": shard.Replicated,
	"megamoe_router": shard.Replicated, "moe_tp_experts": shard.Replicated, "megamoe_experts": shard.Replicated,
	"moe_identity_expert": shard.Replicated, "mla_kv_a_proj": shard.Replicated,
}

// TestTPPlanStyles: every style is known and cuts weight and bias as it should.
func TestTPPlanStyles(t *testing.T) {
	for style, want := range transformersStyles {
		s := &stored{ix: &checkpoint.Index{Format: "safetensors", TPPlan: map[string]string{"layers.*.mix": style}}}
		s.add(0, 0, "model.layers.0.mix.weight", dtype.F32, 16, 8)
		s.add(0, 0, "model.layers.0.mix.bias", dtype.F32, 16)
		s.fill(1)
		p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 2}})
		if err != nil {
			t.Errorf("%s: %v", style, err)
			continue
		}
		checkJoin(t, t, s, p, load(t, t, s, p), 3)
		bias := shard.Replicated
		if want == shard.Colwise || want == shard.PackedColwise {
			bias = want
		}
		if p.Tensors[0].Rule != want || p.Tensors[1].Rule != bias || len(p.Warnings) > 0 {
			t.Errorf("%s: weight %s, bias %s, warnings %q; want %s, %s", style, p.Tensors[0].Rule, p.Tensors[1].Rule, p.Warnings, want, bias)
		}
	}
}

// TestTPPlanExperts: parameters that hold all experts have styles of their own,
// the module around them says what they do together; ep divides between them,
// whatever divides inside.
func TestTPPlanExperts(t *testing.T) {
	for _, c := range []struct {
		gateUp, down, experts string
		rank                  [2]string // what rank ep 1, tp 1 holds of each
	}{
		{"packed_colwise", "rowwise", "moe_tp_experts", [2]string{"rows 36:40,44:48,52:56,60:64", "rows 32:64 cols 4:8"}},
		{"grouped_gemm", "grouped_gemm", "moe_tp_experts", [2]string{"rows 32:64", "rows 32:64"}},
		// Llama 4's are stored [experts, in, out].
		{"local_packed_rowwise", "local_colwise", "local", [2]string{"rows 32:64 cols 2:4,6:8", "rows 40:48,56:64"}},
	} {
		s := &stored{ix: &checkpoint.Index{Format: "safetensors", TPPlan: map[string]string{
			"layers.*.mlp.experts.gate_up_proj": c.gateUp, "layers.*.mlp.experts.down_proj": c.down, "layers.*.mlp.experts": c.experts, "layers.*.mlp": "gather"}}}
		s.add(0, 0, "model.layers.0.mlp.experts.gate_up_proj", dtype.F32, 4, 16, 8)
		s.add(0, 0, "model.layers.0.mlp.experts.down_proj", dtype.F32, 4, 16, 8)
		s.fill(1)
		p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 2, EP: 2}})
		if err != nil {
			t.Errorf("%s: %v", c.gateUp, err)
			continue
		}
		checkJoin(t, t, s, p, load(t, t, s, p), 3)
		if len(p.Warnings) > 0 {
			t.Errorf("%s: warnings %q", c.gateUp, p.Warnings)
		}
		last := &p.Ranks[3]
		for i, want := range c.rank {
			if got := holding(last.SlicesOf(i), &p.Tensors[i]); got != want {
				t.Errorf("%s: %s: %s, want %s", c.gateUp, p.Tensors[i].Name, got, want)
			}
		}
	}
}
