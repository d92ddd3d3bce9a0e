package shard

import (
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/quant"
)

// kinds are the modules that recipes single out, by the last part of their
// names: those of Hugging Face's models and those of GGUF.
var kinds = map[string]quant.Kind{
	"embed_tokens": quant.KindEmbedding, "wte": quant.KindEmbedding, "word_embeddings": quant.KindEmbedding, "token_embd": quant.KindEmbedding,
	"lm_head": quant.KindHead, "output": quant.KindHead,

	"q_proj": quant.KindQuery, "attn_q": quant.KindQuery,
	"k_proj": quant.KindKey, "attn_k": quant.KindKey,
	"v_proj": quant.KindValue, "attn_v": quant.KindValue,
	"qkv_proj": quant.KindValue, "query_key_value": quant.KindValue, "c_attn": quant.KindValue, "attn_qkv": quant.KindValue,
	"kv_b_proj": quant.KindValue, "attn_kv_b": quant.KindValue,
	"o_proj": quant.KindAttnOut, "out_proj": quant.KindAttnOut, "attn_output": quant.KindAttnOut,

	"gate_proj": quant.KindGate, "w1": quant.KindGate, "ffn_gate": quant.KindGate, "ffn_gate_exps": quant.KindGate, "ffn_gate_shexp": quant.KindGate,
	"up_proj": quant.KindUp, "w3": quant.KindUp, "gate_up_proj": quant.KindUp, "fc1": quant.KindUp, "c_fc": quant.KindUp,
	"ffn_up": quant.KindUp, "ffn_up_exps": quant.KindUp, "ffn_up_shexp": quant.KindUp,
	"down_proj": quant.KindDown, "w2": quant.KindDown, "fc2": quant.KindDown,
	"ffn_down": quant.KindDown, "ffn_down_exps": quant.KindDown, "ffn_down_shexp": quant.KindDown,

	// Small, and much depends on them.
	"gate": quant.KindPlain, "router": quant.KindPlain, "ffn_gate_inp": quant.KindPlain, "shared_expert_gate": quant.KindPlain,
	"position_embeddings": quant.KindPlain, "token_type_embeddings": quant.KindPlain, "wpe": quant.KindPlain,
	"position_embd": quant.KindPlain, "token_types": quant.KindPlain,
}

// kindOf returns what a tensor does. Only weights are quantized, and no norm.
func kindOf(n name) quant.Kind {
	if n.leaf != "weight" || strings.Contains(n.module, "norm") {
		return quant.KindPlain
	}
	if r, ok := kinds[n.module]; ok {
		return r
	}
	return quant.KindOther
}

// seats says where each tensor stands among those of its kind.
type seats struct {
	model quant.Stack
	kind  []quant.Kind // by tensor
	at    []int        // by tensor, as quant.Recipe.Choose counts
}

// newSeats counts what recipes ask. parts are in the order of layers.
func newSeats(ix *checkpoint.Index, parts []part) seats {
	s := seats{kind: make([]quant.Kind, len(parts)), at: make([]int, len(parts))}
	m := &s.model
	head := false
	for i := range parts {
		p := &parts[i]
		s.kind[i] = kindOf(p.name)
		m.Layers = max(m.Layers, p.layer+1, int(ix.Architecture.Layers))
		m.Experts = max(m.Experts, experts(p))
		head = head || s.kind[i] == quant.KindHead
	}
	m.GQA = int(groups(ix))
	m.Large = large(ix, m.Layers)
	count := map[quant.Kind]int{}
	for i := range parts {
		r := s.kind[i]
		if s.at[i] = count[r]; m.Experts > 1 && r == quant.KindDown {
			s.at[i] = max(parts[i].layer, 0) // it is one of many in its layer
		}
		count[r]++
		if r == quant.KindEmbedding && !head {
			s.kind[i] = quant.KindHead // tied
		}
	}
	m.Values = count[quant.KindValue]
	return s
}

// experts returns how many experts a tensor's name or shape shows.
func experts(p *part) int {
	if strings.HasSuffix(p.module, "_exps") && len(p.source.Shape) == 3 {
		return int(min(p.source.Shape[0], MaxDegree))
	}
	parts := strings.Split(p.source.Name, ".")
	if i := slices.Index(parts, "experts"); i >= 0 && i+1 < len(parts) {
		if n, err := strconv.ParseUint(parts[i+1], 10, 16); err == nil {
			return int(n) + 1
		}
	}
	return 0
}

// groups returns the query heads for each key-value head, 0 where unknown.
// Heads of one size show it by the rows of a layer's projections too.
func groups(ix *checkpoint.Index) int64 {
	if h := countHeads(ix); h.q > 0 && h.kv > 0 {
		return h.q / h.kv
	}
	var q, k int64
	for i := range ix.Tensors {
		t := &ix.Tensors[i]
		n := parseName(t.Name)
		if n.leaf != "weight" || len(t.Shape) != 2 {
			continue
		}
		switch kindOf(n) {
		case quant.KindQuery:
			q = t.Shape[0]
		case quant.KindKey:
			k = t.Shape[0]
		}
	}
	if k == 0 {
		return 0
	}
	return q / k
}

// large says whether llama.cpp takes the model for one of 70B parameters: a
// Llama of 80 layers that shares key-value heads, or a Qwen2 of 80.
func large(ix *checkpoint.Index, layers int) bool {
	switch ix.Architecture.Name {
	case "qwen2":
		return layers == 80
	case "", "llama", "mistral":
		return layers == 80 && groups(ix) > 1
	}
	return false
}
