//go:build llama

package llama

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
)

// Dimensions of the models of TestLlamaCppRunsArchitectures.
const (
	hidden, inner, words, blocks, experts = 64, 96, 96, 2, 4
	kv                                    = hidden / 2 // rows of key and value projections
)

// shapes are tensors by their Hugging Face names. Those of layers come without
// model.layers.N.
type shapes map[string][]int64

// architecture is a small model: what its config.json says besides common, and
// its tensors.
type architecture struct {
	config string
	layer  []shapes
	outer  []shapes
}

const common = `"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
	"vocab_size": 96, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2`

// attention has projections of q and kv rows, and the norms that are named.
func attention(q, kv int64, norms ...string) shapes {
	s := shapes{"self_attn.q_proj.weight": {q, hidden}, "self_attn.k_proj.weight": {kv, hidden}, "self_attn.v_proj.weight": {kv, hidden}, "self_attn.o_proj.weight": {hidden, q}}
	for _, n := range norms {
		s[n+".weight"] = []int64{hidden}
	}
	return s
}

// biases are those of modules with so many outputs.
func biases(modules map[string]int64) shapes {
	s := shapes{}
	for m, n := range modules {
		s[m+".bias"] = []int64{n}
	}
	return s
}

func headNorms(q, k int64) shapes {
	return shapes{"self_attn.q_norm.weight": {q}, "self_attn.k_norm.weight": {k}}
}

// mlps are the matrices of experts, w of so many inner elements.
func mlps(prefix, gate, down, up string, inner int64) shapes {
	s := shapes{}
	for e := range experts {
		s[fmt.Sprintf("%s.experts.%d.%s.weight", prefix, e, gate)] = []int64{inner, hidden}
		s[fmt.Sprintf("%s.experts.%d.%s.weight", prefix, e, up)] = []int64{inner, hidden}
		s[fmt.Sprintf("%s.experts.%d.%s.weight", prefix, e, down)] = []int64{hidden, inner}
	}
	s[prefix+".gate.weight"] = []int64{experts, hidden}
	return s
}

var (
	twoNorms = []string{"input_layernorm", "post_attention_layernorm"}
	sandwich = []string{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
	gated    = shapes{"mlp.gate_proj.weight": {inner, hidden}, "mlp.up_proj.weight": {inner, hidden}, "mlp.down_proj.weight": {hidden, inner}}
	plain    = attention(hidden, kv, twoNorms...)
	tied     = shapes{"model.embed_tokens.weight": {words, hidden}, "model.norm.weight": {hidden}}
	head     = shapes{"lm_head.weight": {words, hidden}}
	qkvBias  = biases(map[string]int64{"self_attn.q_proj": hidden, "self_attn.k_proj": kv, "self_attn.v_proj": kv})
	fused    = shapes{"self_attn.qkv_proj.weight": {hidden + 2*kv, hidden}, "self_attn.o_proj.weight": {hidden, hidden}, "mlp.gate_up_proj.weight": {2 * inner, hidden},
		"mlp.down_proj.weight": {hidden, inner}, "input_layernorm.weight": {hidden}, "post_attention_layernorm.weight": {hidden}}
	normBias = biases(map[string]int64{"input_layernorm": hidden, "post_attention_layernorm": hidden})
)

const rms = `"rms_norm_eps": 1e-5, `

// architectures are those that GGUF files are written of, by what config.json
// calls them, with a remark where there are several of a kind.
var architectures = map[string]architecture{
	"llama": {rms, []shapes{plain, gated}, []shapes{tied, head}},
	"llama with factors": {rms + `"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 32}, `,
		[]shapes{plain, gated}, []shapes{tied}},
	"mistral": {rms, []shapes{plain, gated}, []shapes{tied, head}},
	"smollm3": {rms, []shapes{plain, gated}, []shapes{tied}},
	"granite": {rms + `"attention_multiplier": 0.25, "embedding_multiplier": 12, "residual_multiplier": 0.22, "logits_scaling": 8, `, []shapes{plain, gated}, []shapes{tied}},
	"mixtral": {rms + `"num_local_experts": 4, "num_experts_per_tok": 2, `, []shapes{plain, mlps("block_sparse_moe", "w1", "w2", "w3", inner)}, []shapes{tied, head}},
	"qwen2":   {rms, []shapes{plain, qkvBias, gated}, []shapes{tied, head}},
	"qwen3":   {rms + `"head_dim": 32, `, []shapes{attention(128, 64, twoNorms...), headNorms(32, 32), gated}, []shapes{tied}},
	"qwen2_moe": {rms + `"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, `,
		[]shapes{plain, qkvBias, mlps("mlp", "gate_proj", "down_proj", "up_proj", 32), {"mlp.shared_expert.gate_proj.weight": {64, hidden}, "mlp.shared_expert.up_proj.weight": {64, hidden},
			"mlp.shared_expert.down_proj.weight": {hidden, 64}, "mlp.shared_expert_gate.weight": {1, hidden}}}, []shapes{tied, head}},
	"qwen3_moe": {rms + `"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16, `,
		[]shapes{plain, headNorms(16, 16), mlps("mlp", "gate_proj", "down_proj", "up_proj", 32)}, []shapes{tied, head}},
	"gemma": {rms + `"head_dim": 32, `, []shapes{attention(128, 64, twoNorms...), gated}, []shapes{tied}},
	"gemma2": {rms + `"head_dim": 32, "attn_logit_softcapping": 50, "final_logit_softcapping": 30, "sliding_window": 64, `,
		[]shapes{attention(128, 64, sandwich...), gated}, []shapes{tied}},
	"gemma3_text": {rms + `"head_dim": 32, "sliding_window": 64, "rope_local_base_freq": 10000, "rope_theta": 1000000, `,
		[]shapes{attention(128, 64, sandwich...), headNorms(32, 32), gated}, []shapes{tied}},
	"olmo2": {rms, []shapes{attention(hidden, kv, "post_attention_layernorm", "post_feedforward_layernorm"), headNorms(hidden, kv), gated}, []shapes{tied, head}},
	"phi3":  {rms + `"original_max_position_embeddings": 128, "sliding_window": 64, `, []shapes{fused}, []shapes{tied, head}},
	"phi3 with factors": {rms + `"original_max_position_embeddings": 32, "sliding_window": 64, "rope_scaling": {"type": "longrope", "long_factor": [2,2,2,2,2,2,2,2], "short_factor": [1,1,1,1,1,1,1,1]}, `,
		[]shapes{fused}, []shapes{tied, head}},
	"phi": {`"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, `, []shapes{
		{"self_attn.q_proj.weight": {hidden, hidden}, "self_attn.k_proj.weight": {kv, hidden}, "self_attn.v_proj.weight": {kv, hidden}, "self_attn.dense.weight": {hidden, hidden},
			"mlp.fc1.weight": {inner, hidden}, "mlp.fc2.weight": {hidden, inner}, "input_layernorm.weight": {hidden}},
		qkvBias, biases(map[string]int64{"self_attn.dense": hidden, "mlp.fc1": inner, "mlp.fc2": hidden, "input_layernorm": hidden}),
	}, []shapes{{"model.embed_tokens.weight": {words, hidden}, "model.final_layernorm.weight": {hidden}, "model.final_layernorm.bias": {hidden}, "lm_head.bias": {words}}, head}},
	"stablelm": {`"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_parallel_residual": false, `, []shapes{plain, normBias, gated},
		[]shapes{tied, head, {"model.norm.bias": {hidden}}}},
	"starcoder2": {`"norm_epsilon": 1e-5, `, []shapes{plain, qkvBias, normBias, {"mlp.c_fc.weight": {inner, hidden}, "mlp.c_proj.weight": {hidden, inner}},
		biases(map[string]int64{"self_attn.o_proj": hidden, "mlp.c_fc": inner, "mlp.c_proj": hidden})}, []shapes{tied, {"model.norm.bias": {hidden}}}},
	"gpt2": {`"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128, "layer_norm_epsilon": 1e-5, "num_key_value_heads": null, "intermediate_size": null, `, []shapes{
		{"attn.c_attn.weight": {hidden, 3 * hidden}, "attn.c_proj.weight": {hidden, hidden}, "mlp.c_fc.weight": {hidden, 4 * hidden}, "mlp.c_proj.weight": {4 * hidden, hidden},
			"ln_1.weight": {hidden}, "ln_2.weight": {hidden}},
		biases(map[string]int64{"attn.c_attn": 3 * hidden, "attn.c_proj": hidden, "mlp.c_fc": 4 * hidden, "mlp.c_proj": hidden, "ln_1": hidden, "ln_2": hidden}),
	}, []shapes{{"wte.weight": {words, hidden}, "wpe.weight": {128, hidden}, "ln_f.weight": {hidden}, "ln_f.bias": {hidden}}}},
}

// TestLlamaCppRunsArchitectures: llama.cpp finds all that it needs in the files
// of every architecture, and runs them; where rows divide into blocks, those of
// q8_0 too.
func TestLlamaCppRunsArchitectures(t *testing.T) {
	gantry, generate := tools(t)
	for name, a := range architectures {
		dir := a.write(t, name)
		for _, scheme := range []string{"f32", "q8_0"} {
			if name == "gpt2" && scheme == "q8_0" {
				continue // stored [in, out]: not quantized
			}
			out := filepath.Join(dir, scheme+".gguf")
			run(t, gantry, "quantize", dir, "--to", scheme, "--out", out)
			if got := ids(t, run(t, generate, os.Getenv("GGML_LIB"), out, "6", "1", "5", "9")); len(got) != 6 {
				t.Errorf("%s as %s: llama.cpp says %v", name, scheme, got)
			}
		}
	}
}

// write writes the model with random weights; norms are about 1.
func (a architecture) write(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	kind, _, _ := strings.Cut(name, " ")
	config := fmt.Sprintf(`{"model_type": %q, %s%s}`, kind, a.config, common)
	if kind == "gpt2" { // it has names of its own for all
		config = fmt.Sprintf(`{"model_type": %q, %s"vocab_size": 96}`, kind, a.config)
	}
	if !json.Valid([]byte(config)) {
		t.Fatalf("%s: %s", name, config)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	all := shapes{}
	for _, s := range a.outer {
		maps.Copy(all, s)
	}
	prefix := "model.layers."
	if kind == "gpt2" {
		prefix = "h."
	}
	for l := range blocks {
		for _, s := range a.layer {
			for n, shape := range s {
				all[fmt.Sprintf("%s%d.%s", prefix, l, n)] = shape
			}
		}
	}
	var list []safetensors.Tensor
	for _, n := range slices.Sorted(maps.Keys(all)) {
		list = append(list, safetensors.Tensor{Name: n, DType: dtype.F32, Shape: all[n]})
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i, x := range w.Tensors() {
		var b []byte
		for range x.Bytes / 4 {
			v := 0.1 * r.NormFloat64()
			if len(x.Shape) == 1 && strings.HasSuffix(x.Name, "weight") {
				v++
			}
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
		}
		if err := w.WriteTensor(i, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return dir
}
