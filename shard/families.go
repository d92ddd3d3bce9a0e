package shard

import (
	"maps"
	"slices"
	"strings"
)

// Rules are by the last parts of a module's path: "q_proj", or
// "attention.output.dense" where less would be ambiguous. They are the division
// that Megatron-LM introduced (Shoeybi et al., 2019, section 3): the first
// matrix of a pair is cut by its outputs, the second by its inputs, so that a
// layer needs one reduction for each pair.

var (
	replicated = rule{weight: Replicated, bias: Replicated, at: inLayer}
	colwise    = rule{weight: Colwise, bias: Colwise, at: inLayer}
	rowwise    = rule{weight: Rowwise, bias: Replicated, at: inLayer}
	queries    = rule{weight: Colwise, bias: Colwise, heads: true, at: inLayer}
	keys       = rule{weight: KVHeads, bias: KVHeads, at: inLayer}
	fusedHeads = rule{weight: QKV, bias: QKV, at: inLayer}
	fusedGate  = rule{weight: PackedColwise, bias: PackedColwise, at: inLayer}

	embed     = rule{weight: Vocab, at: embedding}
	embedRest = rule{weight: Replicated, bias: Replicated, at: embedding}
	topNorm   = rule{weight: Replicated, bias: Replicated, at: finalNorm}
	topHead   = rule{weight: Vocab, bias: Vocab, at: head}
	topRest   = rule{weight: Replicated, bias: Replicated, at: head}
)

// decoder has the module names of transformers' modeling_llama.py, which
// Mistral, Qwen2 and Qwen3 share, the norms that Gemma 2 and 3 have besides
// (modeling_gemma2.py, modeling_gemma3.py: pre_ and post_feedforward_layernorm,
// q_norm and k_norm) and the experts of Mixtral and Qwen3-MoE.
//
// Experts: modeling_qwen3_moe.py has mlp.gate (the router) and
// mlp.experts.N.{gate,up,down}_proj; Mixtral's checkpoints have
// block_sparse_moe.gate and block_sparse_moe.experts.N.{w1,w3,w2}, w1 being the
// gate, w3 up and w2 down (vllm/model_executor/models/mixtral.py maps them so).
// What all tokens share (Qwen2-MoE's shared_expert) is an MLP like others.
var decoder = map[string]rule{
	"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": rowwise,
	"gate_proj": colwise, "up_proj": colwise, "down_proj": rowwise,

	"input_layernorm": replicated, "post_attention_layernorm": replicated,
	"pre_feedforward_layernorm": replicated, "post_feedforward_layernorm": replicated,
	"q_norm": replicated, "k_norm": replicated,

	"w1": colwise, "w3": colwise, "w2": rowwise,
	"mlp.gate": replicated, "block_sparse_moe.gate": replicated, "shared_expert_gate": replicated,

	"embed_tokens": embed, "norm": topNorm, "lm_head": topHead,
}

// phi has the names of modeling_phi.py (Phi-1, Phi-2) and modeling_phi3.py
// that decoder does not have. Phi-3's qkv_proj has the rows of all query
// heads, then of all key heads, then of all value heads; its gate_up_proj
// those of the gate, then of up (Phi3MLP chunks its outputs so). vLLM's
// phi3.py, which is its llama.py, loads them as QKVParallelLinear and
// MergedColumnParallelLinear.
var phi = map[string]rule{
	"self_attn.dense": rowwise, "mlp.fc1": colwise, "mlp.fc2": rowwise,
	"q_layernorm": replicated, "k_layernorm": replicated, "final_layernorm": topNorm,
	"qkv_proj": fusedHeads, "gate_up_proj": fusedGate,
}

// gpt2 has the names of modeling_gpt2.py. Its Conv1D stores weights [in, out]:
// checkpoint marks them transposed, and GGUF files have them [out, in].
// c_attn's outputs are query, key and value (GPT2Attention splits them so).
var gpt2 = map[string]rule{
	"ln_1": replicated, "ln_2": replicated,
	"attn.c_attn": fusedHeads, "attn.c_proj": rowwise, "mlp.c_fc": colwise, "mlp.c_proj": rowwise,
	"attn": replicated, // the causal mask, which old checkpoints store as attn.bias and attn.masked_bias
	"wte":  embed, "wpe": embedRest, "ln_f": topNorm, "lm_head": topHead,
}

// bert has the names of modeling_bert.py. Its pooler and heads are small and
// come after all layers.
var bert = map[string]rule{
	"attention.self.query": queries, "attention.self.key": queries, "attention.self.value": queries,
	"attention.output.dense": rowwise, "intermediate.dense": colwise, "output.dense": rowwise,
	"attention.output.LayerNorm": replicated, "output.LayerNorm": replicated,
	"word_embeddings": embed, "position_embeddings": embedRest, "token_type_embeddings": embedRest,
	"embeddings.LayerNorm": embedRest, "embeddings": embedRest,
	"pooler.dense": topRest, "cls.predictions.transform.dense": topRest, "cls.predictions.transform.LayerNorm": topRest,
	"cls.seq_relationship": topRest, "classifier": topRest,
	"cls.predictions.decoder": topHead, "cls.predictions": topHead,
}

// others are names that families without rules of their own have: those of
// StarCoder2 (modeling_starcoder2.py: plain linear layers, whatever GPT-2 means
// by the same names), and GGUF's (gguf-py/gguf/constants.py) where the
// architecture is not known, so that they are not Hugging Face's.
var others = map[string]rule{
	"mlp.c_fc": colwise, "mlp.c_proj": rowwise,

	"attn_q": queries, "attn_k": keys, "attn_v": keys, "attn_output": rowwise,
	"ffn_gate": colwise, "ffn_up": colwise, "ffn_down": rowwise,
	"ffn_gate_exps": colwise, "ffn_up_exps": colwise, "ffn_down_exps": rowwise,
	"ffn_gate_shexp": colwise, "ffn_up_shexp": colwise, "ffn_down_shexp": rowwise,
	"ffn_gate_inp": replicated, "ffn_gate_inp_shexp": replicated,
	"attn_norm": replicated, "ffn_norm": replicated, "attn_q_norm": replicated, "attn_k_norm": replicated,
	"token_embd": embed, "output_norm": topNorm, "output": topHead,
}

// families are the rules of architectures, as config.json's model_type calls
// them. Others are taken by their tensors' names.
var families = map[string]map[string]rule{
	"llama": decoder, "mistral": decoder, "mixtral": decoder,
	"qwen2": decoder, "qwen2_moe": decoder, "qwen3": decoder, "qwen3_moe": decoder,
	"gemma": decoder, "gemma2": decoder, "gemma3": decoder, "gemma3_text": decoder,
	"phi": join(decoder, phi), "phi3": join(decoder, phi),
	"gpt2": gpt2, "bert": bert,
}

// anyFamily has the names of all that do not contradict each other.
var anyFamily = join(decoder, phi, bert, others)

func join(all ...map[string]rule) map[string]rule {
	m := map[string]rule{}
	for _, a := range all {
		maps.Copy(m, a)
	}
	return m
}

// rulesOf returns the rules of a family.
func rulesOf(family string) map[string]rule {
	if r, ok := families[family]; ok {
		return r
	}
	return anyFamily
}

// find returns the rule of a module, by as many of its last parts as any rule
// has.
func find(rules map[string]rule, n name) (rule, bool) {
	if isBeside(n.path) {
		return rule{}, false
	}
	parts := strings.Split(n.path, ".")
	for from := max(len(parts)-4, 0); from < len(parts); from++ {
		if r, ok := rules[strings.Join(parts[from:], ".")]; ok {
			return r, true
		}
	}
	return rule{}, false
}

// isBeside says whether a module is none of the language model's.
func isBeside(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "."), func(p string) bool { return slices.Contains(beside, p) })
}

// match returns the rule of a tensor with the given number of dimensions (of
// one expert), and which of its divisions holds. It fails where no rule fits.
func match(rules map[string]rule, n name, dims int) (rule, Rule, bool) {
	if n.module == "rotary_emb" && n.leaf == "inv_freq" {
		return rule{weight: Replicated, at: inLayer}, Replicated, true
	}
	r, ok := find(rules, n)
	if !ok {
		return rule{}, "", false
	}
	division, ok := r.divides(n.leaf, dims)
	return r, division, ok
}

// divides returns how a module's tensor is divided, by the last part of its
// name; ok is false where the rule does not say.
func (r rule) divides(leaf string, dims int) (division Rule, ok bool) {
	switch {
	case r.weight == Replicated:
		return Replicated, true // buffers and LayerNorm's gamma and beta too
	case leaf == "bias" && r.bias != "":
		return r.bias, true
	case leaf != "weight", (r.weight == Rowwise || r.weight == PackedRowwise) && dims != 2:
		return "", false
	}
	return r.weight, true
}
