package checkpoint

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
)

// ggufModel reads what a GGUF header says about the model. The keys are those
// of the format's specification, "Standardized key-value pairs".
type ggufModel struct {
	h    *gguf.Header
	file string
}

// architecture returns what the file calls the model, such as "llama" or
// "gemma2"; "" where it says nothing.
func (m ggufModel) architecture() string {
	v, _ := m.h.Find("general.architecture")
	name, ok := v.Text()
	if !ok {
		return ""
	}
	return name
}

// int returns a count: 0 where the file does not say it, or says one for each
// layer.
func (m ggufModel) int(key string, limit int64) (int64, error) {
	v, ok := m.h.Find(key)
	if !ok || v.Type == gguf.Array {
		return 0, nil
	}
	n, ok := v.Int()
	if !ok || n > limit {
		return 0, invalid(m.file, "%s is %.40q, want 0 to %d", key, v, limit)
	}
	return n, nil
}

// float returns a number, 0 where the file does not say it.
func (m ggufModel) float(key string) float64 {
	v, _ := m.h.Find(key)
	f, ok := v.Float()
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// describe fills in the architecture from the metadata and the tensors, and
// checks that they agree.
func (m ggufModel) describe(ix *Index) error {
	a := &ix.Architecture
	if err := m.fill(a); err != nil {
		return err
	}
	if n := byNames(ix); n.llama && slices.Contains(family, a.Name) {
		n.fill(ix, a, true)
		if err := n.checkLayers(m.file, *a, true); err != nil {
			return err
		}
		if err := checkShapes(ix); err != nil {
			return err
		}
	}
	a.Parameters = parameters(ix)
	return nil
}

// fill sets what the metadata says.
func (m ggufModel) fill(a *Architecture) error {
	a.Name = m.architecture()
	if a.Name == "" {
		return nil
	}
	for _, f := range []struct {
		to    *int64
		key   string
		limit int64
	}{
		{&a.Context, ".context_length", math.MaxInt32},
		{&a.Hidden, ".embedding_length", maxDimension},
		{&a.Intermediate, ".feed_forward_length", maxDimension},
		{&a.Layers, ".block_count", maxDimension},
		{&a.Heads, ".attention.head_count", maxDimension},
		{&a.KVHeads, ".attention.head_count_kv", maxDimension},
		{&a.HeadDim, ".attention.key_length", maxDimension},
		{&a.Vocab, ".vocab_size", math.MaxInt32},
	} {
		n, err := m.int(a.Name+f.key, f.limit)
		if err != nil {
			return err
		}
		*f.to = n
	}
	// The embedding has a row for each token; vocab_size is what there was
	// before tokens were added to fill it up.
	if tokens, ok := m.h.Find("tokenizer.ggml.tokens"); ok && tokens.Len() > 0 {
		a.Vocab = int64(min(tokens.Len(), math.MaxInt32))
	}
	if _, said := m.h.Find(a.Name + ".attention.head_count_kv"); !said {
		a.KVHeads = a.Heads
	}
	if a.HeadDim == 0 && a.Heads > 0 && a.Hidden%a.Heads == 0 {
		a.HeadDim = a.Hidden / a.Heads
	}
	a.NormEps = cmp.Or(m.float(a.Name+".attention.layer_norm_rms_epsilon"), m.float(a.Name+".attention.layer_norm_epsilon"))
	a.RopeTheta = m.float(a.Name + ".rope.freq_base")
	if slices.Contains(family, a.Name) {
		a.RopeTheta = cmp.Or(a.RopeTheta, 10_000)
		if a.KVHeads > 0 && a.Heads%a.KVHeads != 0 {
			return invalid(m.file, "%d attention heads cannot share %d key-value heads", a.Heads, a.KVHeads)
		}
	}
	return nil
}

// ggufNames are the Llama family's tensors: what GGUF calls them, and Hugging
// Face. Those of layers come without their blk.N. and model.layers.N., all
// without their ending, .weight or .bias.
var ggufNames = map[string]string{
	"token_embd":  "model.embed_tokens",
	"output_norm": "model.norm",
	"output":      "lm_head",
}

var ggufLayerNames = map[string]string{
	"attn_norm":   "input_layernorm",
	"attn_q":      "self_attn.q_proj",
	"attn_k":      "self_attn.k_proj",
	"attn_v":      "self_attn.v_proj",
	"attn_output": "self_attn.o_proj",
	"attn_q_norm": "self_attn.q_norm",
	"attn_k_norm": "self_attn.k_norm",
	"ffn_norm":    "post_attention_layernorm",
	"ffn_gate":    "mlp.gate_proj",
	"ffn_up":      "mlp.up_proj",
	"ffn_down":    "mlp.down_proj",
}

// names returns what tensors are called in the Index: as Hugging Face does in
// the Llama family without experts, as they are elsewhere.
func (m ggufModel) names() func(string) string {
	experts, ok := m.h.Find(m.architecture() + ".expert_count")
	if n, _ := experts.Int(); !slices.Contains(family, m.architecture()) || ok && n != 0 {
		return func(name string) string { return name }
	}
	return huggingFaceName
}

// huggingFaceName renames one tensor; what it does not know keeps its name.
func huggingFaceName(name string) string {
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return name
	}
	stem, ending := name[:at], name[at:]
	if ending != ".weight" && ending != ".bias" {
		return name
	}
	if to, ok := ggufNames[stem]; ok {
		return to + ending
	}
	rest, ok := strings.CutPrefix(stem, "blk.")
	if !ok {
		return name
	}
	layer, part, _ := strings.Cut(rest, ".")
	to, ok := ggufLayerNames[part]
	if n, err := strconv.ParseUint(layer, 10, 31); !ok || err != nil || strconv.FormatUint(n, 10) != layer {
		return name
	}
	return layerPrefix + layer + "." + to + ending
}
