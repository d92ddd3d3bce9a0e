package shard

import (
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
)

// place is where in the model a tensor belongs.
type place uint8

const (
	embedding place = iota // before the layers
	inLayer
	finalNorm // after the layers
	head
	anywhere // nobody knows
)

// rule says how the tensors of one module are divided.
type rule struct {
	weight Rule
	bias   Rule
	heads  bool // rows are attention heads
	// multiplies says that it is a linear layer however its weight is divided.
	multiplies bool
	at         place
}

// linear reports whether the module multiplies by its weight, and is inside a
// layer: what schemes that are not ggml's quantize.
func (r rule) linear() bool {
	return r.multiplies || r.weight == Colwise || r.weight == Rowwise || r.weight == KVHeads
}

// llamaRules is the division that Megatron-LM introduced (Shoeybi et al.,
// 2019, section 3) in the module names of Hugging Face's modeling_llama.py:
// the first matrix of a pair is cut by its outputs, the second by its inputs,
// so that a layer needs one reduction for each pair.
var llamaRules = map[string]rule{
	"q_proj":    {weight: Colwise, bias: Colwise, heads: true, at: inLayer},
	"k_proj":    {weight: KVHeads, bias: KVHeads, at: inLayer},
	"v_proj":    {weight: KVHeads, bias: KVHeads, at: inLayer},
	"o_proj":    {weight: Rowwise, bias: Replicated, at: inLayer},
	"gate_proj": {weight: Colwise, bias: Colwise, at: inLayer},
	"up_proj":   {weight: Colwise, bias: Colwise, at: inLayer},
	"down_proj": {weight: Rowwise, bias: Replicated, at: inLayer},

	"input_layernorm":          {weight: Replicated, bias: Replicated, at: inLayer},
	"post_attention_layernorm": {weight: Replicated, bias: Replicated, at: inLayer},
	"q_norm":                   {weight: Replicated, bias: Replicated, at: inLayer},
	"k_norm":                   {weight: Replicated, bias: Replicated, at: inLayer},

	"embed_tokens": {weight: Vocab, at: embedding},
	"norm":         {weight: Replicated, bias: Replicated, at: finalNorm},
	"lm_head":      {weight: Vocab, bias: Vocab, at: head},
}

// families are the architectures that llamaRules is right for. One that the
// checkpoint does not name is taken by its tensors' names.
var families = map[string]bool{"": true, "llama": true, "mistral": true, "qwen2": true, "qwen3": true}

// name is a tensor's name taken apart.
type name struct {
	module string // "q_proj"
	leaf   string // "weight"
	stack  string // what precedes the layer's number: "model.layers"
	layer  int    // -1 outside the layers
}

// parseName takes "model.layers.3.self_attn.q_proj.weight" apart. The first
// number after a part named "layers", or "blk" as in GGUF, is the layer.
func parseName(s string) name {
	parts := strings.Split(s, ".")
	n := name{leaf: parts[len(parts)-1], layer: -1}
	if len(parts) > 1 {
		n.module = parts[len(parts)-2]
	}
	for i := 1; i < len(parts); i++ {
		if parts[i-1] != "layers" && parts[i-1] != "blk" {
			continue
		}
		if l, err := strconv.ParseUint(parts[i], 10, 31); err == nil {
			n.layer, n.stack = int(l), strings.Join(parts[:i], ".")
			break
		}
	}
	return n
}

// match returns the rule of a tensor with the given number of dimensions, and
// which of its divisions holds. It fails where no rule fits.
func match(family string, n name, dims int) (rule, Rule, bool) {
	if !families[family] {
		return rule{}, "", false
	}
	if n.module == "rotary_emb" && n.leaf == "inv_freq" {
		return rule{weight: Replicated, at: inLayer}, Replicated, true
	}
	r, ok := llamaRules[n.module]
	if !ok {
		return rule{}, "", false
	}
	division := r.weight
	switch {
	case n.leaf == "bias" && r.bias != "":
		division = r.bias
	case n.leaf != "weight", r.weight == Rowwise && dims != 2:
		return rule{}, "", false
	}
	return r, division, true
}

// heads is what the cuts of attention need to know. Zero is unknown.
type heads struct{ q, kv int64 }

// countHeads returns the head counts of the configuration, or what can be
// told from the size of a head: that of the configuration, of a norm over
// heads, or of the rotary frequencies (one for each pair of elements).
func countHeads(ix *checkpoint.Index) heads {
	h := heads{ix.Architecture.Heads, ix.Architecture.KVHeads}
	if h.q > 0 && h.kv > 0 {
		return h
	}
	dim, rows := ix.Architecture.HeadDim, map[string]int64{}
	for _, t := range ix.Tensors {
		n := parseName(t.Name)
		if len(t.Shape) == 0 {
			continue
		}
		switch {
		case n.leaf == "weight" && n.layer >= 0 && t.Transposed:
			rows[n.module] = t.Shape[len(t.Shape)-1]
		case n.leaf == "weight" && n.layer >= 0:
			rows[n.module] = t.Shape[0]
		case n.leaf == "inv_freq" && dim == 0:
			dim = 2 * t.Shape[0]
		}
	}
	if dim == 0 && rows["q_norm"] < rows["q_proj"] { // else the norm is over all heads
		dim = rows["q_norm"]
	}
	if dim <= 0 {
		return h
	}
	if h.q <= 0 && rows["q_proj"]%dim == 0 {
		h.q = rows["q_proj"] / dim
	}
	if h.kv <= 0 && rows["k_proj"]%dim == 0 {
		h.kv = rows["k_proj"] / dim
	}
	return h
}
