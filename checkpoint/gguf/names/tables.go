package names

import "maps"

// family is what architectures with the same module names share. The keys are
// GGUF's names, the values Hugging Face's.
type family struct {
	global     map[string]string
	layer      map[string]string
	layers     string          // what precedes a layer's number in Hugging Face's names
	prefix     string          // of all Hugging Face names, where some checkpoints leave it out
	transposed map[string]bool // Hugging Face's names within a layer: see Transposed

	interleaved bool // the rows of query and key projections: see Interleaved
	shifted     bool // norms: see Shift

	toGlobal, toLayer map[string]string // the other way round
}

var decoderGlobal = map[string]string{
	"token_embd":  "model.embed_tokens",
	"output_norm": "model.norm",
	"output":      "lm_head",
}

var decoderAttention = map[string]string{
	"attn_norm":   "input_layernorm",
	"attn_q":      "self_attn.q_proj",
	"attn_k":      "self_attn.k_proj",
	"attn_v":      "self_attn.v_proj",
	"attn_output": "self_attn.o_proj",
	"attn_q_norm": "self_attn.q_norm",
	"attn_k_norm": "self_attn.k_norm",
	"ffn_norm":    "post_attention_layernorm",
}

var gatedMLP = map[string]string{
	"ffn_gate": "mlp.gate_proj",
	"ffn_up":   "mlp.up_proj",
	"ffn_down": "mlp.down_proj",
}

// decoder are the names of modeling_llama.py, which most have.
var decoder = family{global: decoderGlobal, layers: "model.layers.", layer: join(decoderAttention, gatedMLP)}

var mixtral = family{global: decoderGlobal, layers: "model.layers.", layer: join(decoderAttention, map[string]string{
	"ffn_gate_inp":  "block_sparse_moe.gate",
	"ffn_gate_exps": "block_sparse_moe.experts.*.w1",
	"ffn_down_exps": "block_sparse_moe.experts.*.w2",
	"ffn_up_exps":   "block_sparse_moe.experts.*.w3",
})}

// qwenMoE has experts in most layers, a plain MLP in others, and in Qwen2 an
// expert that all tokens share.
var qwenMoE = family{global: decoderGlobal, layers: "model.layers.", layer: join(decoderAttention, gatedMLP, map[string]string{
	"ffn_gate_inp":       "mlp.gate",
	"ffn_gate_exps":      "mlp.experts.*.gate_proj",
	"ffn_up_exps":        "mlp.experts.*.up_proj",
	"ffn_down_exps":      "mlp.experts.*.down_proj",
	"ffn_gate_inp_shexp": "mlp.shared_expert_gate",
	"ffn_gate_shexp":     "mlp.shared_expert.gate_proj",
	"ffn_up_shexp":       "mlp.shared_expert.up_proj",
	"ffn_down_shexp":     "mlp.shared_expert.down_proj",
})}

// sandwich has norms before and after each block, as Gemma from 2 on.
var sandwich = family{global: decoderGlobal, layers: "model.layers.", layer: join(decoderAttention, gatedMLP, map[string]string{
	"post_attention_norm": "post_attention_layernorm",
	"ffn_norm":            "pre_feedforward_layernorm",
	"post_ffw_norm":       "post_feedforward_layernorm",
})}

// olmo2 has norms after each block only.
var olmo2 = family{global: decoderGlobal, layers: "model.layers.", layer: join(without(decoderAttention, "attn_norm", "ffn_norm"), gatedMLP, map[string]string{
	"post_attention_norm": "post_attention_layernorm",
	"post_ffw_norm":       "post_feedforward_layernorm",
})}

var phi2 = family{
	global: map[string]string{"token_embd": "model.embed_tokens", "output_norm": "model.final_layernorm", "output": "lm_head"},
	layers: "model.layers.",
	layer: map[string]string{
		"attn_norm":   "input_layernorm",
		"attn_q":      "self_attn.q_proj",
		"attn_k":      "self_attn.k_proj",
		"attn_v":      "self_attn.v_proj",
		"attn_output": "self_attn.dense",
		"ffn_up":      "mlp.fc1",
		"ffn_down":    "mlp.fc2",
	},
}

// phi3 has fused projections: query, key and value, and gate and up.
var phi3 = family{global: decoderGlobal, layers: "model.layers.", layer: map[string]string{
	"attn_norm":   "input_layernorm",
	"attn_qkv":    "self_attn.qkv_proj",
	"attn_output": "self_attn.o_proj",
	"ffn_norm":    "post_attention_layernorm",
	"ffn_up":      "mlp.gate_up_proj",
	"ffn_down":    "mlp.down_proj",
}}

var starcoder2 = family{global: decoderGlobal, layers: "model.layers.", layer: join(decoderAttention, map[string]string{
	"ffn_up":   "mlp.c_fc",
	"ffn_down": "mlp.c_proj",
})}

var gpt2 = family{
	global: map[string]string{
		"token_embd":    "transformer.wte",
		"position_embd": "transformer.wpe",
		"output_norm":   "transformer.ln_f",
		"output":        "lm_head",
	},
	layers: "transformer.h.",
	prefix: "transformer.",
	layer: map[string]string{
		"attn_norm":   "ln_1",
		"attn_qkv":    "attn.c_attn",
		"attn_output": "attn.c_proj",
		"ffn_norm":    "ln_2",
		"ffn_up":      "mlp.c_fc",
		"ffn_down":    "mlp.c_proj",
	},
	transposed: map[string]bool{"attn.c_attn": true, "attn.c_proj": true, "mlp.c_fc": true, "mlp.c_proj": true},
}

var bert = family{
	global: map[string]string{
		"token_embd":      "bert.embeddings.word_embeddings",
		"token_types":     "bert.embeddings.token_type_embeddings",
		"position_embd":   "bert.embeddings.position_embeddings",
		"token_embd_norm": "bert.embeddings.LayerNorm",
	},
	layers: "bert.encoder.layer.",
	prefix: "bert.",
	layer: map[string]string{
		"attn_q":            "attention.self.query",
		"attn_k":            "attention.self.key",
		"attn_v":            "attention.self.value",
		"attn_output":       "attention.output.dense",
		"attn_output_norm":  "attention.output.LayerNorm",
		"ffn_up":            "intermediate.dense",
		"ffn_down":          "output.dense",
		"layer_output_norm": "output.LayerNorm",
	},
}

// join returns the entries of all maps; a later one's count.
func join(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		maps.Copy(m, a)
	}
	return m
}

func without(m map[string]string, keys ...string) map[string]string {
	m = maps.Clone(m)
	for _, k := range keys {
		delete(m, k)
	}
	return m
}
