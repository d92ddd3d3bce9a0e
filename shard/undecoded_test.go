package shard_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// TestUndecoded: of a weight that is quantized in a way that is not decoded no
// tensor is cast or encoded, whatever the scheme; others are as ever.
func TestUndecoded(t *testing.T) {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Config: []byte(`{"quantization_config":{"quant_method":"hqq"}}`),
		Architecture: checkpoint.Architecture{Name: "llama", Heads: 4, KVHeads: 4}}}
	const layer = "model.layers.0."
	s.add(0, 0, layer+"mlp.up_proj.W_q", dtype.U8, 256, 256)
	s.add(0, 0, layer+"mlp.up_proj.scale", dtype.F16, 256, 256)
	s.add(0, 0, layer+"mlp.gate_proj.weight", dtype.BF16, 256, 256) // packed codes
	s.add(0, 0, layer+"mlp.gate_proj.weight.absmax", dtype.F32, 256)
	s.ix.Tensors[2].Codes = true
	kept := len(s.ix.Tensors)
	s.add(0, 0, layer+"input_layernorm.weight", dtype.F16, 256)
	s.add(0, 0, layer+"mlp.down_proj.weight", dtype.F16, 256, 256)
	s.awq(layer+"self_attn.q_proj", 256, 256)
	if got := shard.Undecoded(s.ix); !slices.Equal(got[:kept], []bool{true, true, true, true}) || slices.Contains(got[kept:], true) {
		t.Errorf("undecoded: %v", got)
	}
	for _, scheme := range []string{"none", "f32", "int8", "q8_0", "q4_K_M", "nf4"} {
		p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 1}, Scheme: scheme, Overrides: []quant.Override{{Pattern: "*norm*", Scheme: "bf16"}, {Pattern: "*up_proj*", Scheme: "f16"}}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Tensors {
			x := &p.Tensors[i]
			stays := strings.Contains(x.Name, "up_proj") || strings.Contains(x.Name, "gate_proj") || scheme == "none" && !strings.Contains(x.Name, "norm")
			if stays != (x.Scheme == "none") {
				t.Errorf("%s: %s becomes %s: %s", scheme, x.Name, x.Scheme, x.Why)
			}
		}
		if warned := strings.Contains(strings.Join(p.Warnings, "\n"), "not decoded"); warned != (scheme != "none") {
			t.Errorf("%s: warnings %q", scheme, p.Warnings)
		}
	}
	_, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 1}, Scheme: "f32", Overrides: []quant.Override{{Pattern: layer + "mlp.up_proj.scale", Scheme: "f16"}}})
	if recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("an override that names one: %v", err)
	}
	s.ix.Config = nil // not of a quantizer
	if slices.Contains(shard.Undecoded(s.ix), true) {
		t.Error("of a checkpoint that is not quantized")
	}
}
