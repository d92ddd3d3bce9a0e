package checkpoint

import (
	"cmp"
	"encoding/json"

	ggufnames "github.com/gantry-ml/gantry/checkpoint/gguf/names"
)

// tiedByDefault says, of model types that are known besides the Llama family,
// whether their heads are tied where config.json does not say: the defaults of
// transformers' configuration_*.py.
var tiedByDefault = map[string]bool{
	"mixtral": false, "qwen2_moe": false, "qwen3_moe": false, "phi": false, "phi3": false,
	"gemma": true, "gemma2": true, "gemma3": true, "gemma3_text": true, "gpt2": true, "bert": true,
}

// otherConfig are the fields of models that are not of the Llama family: GPT-2
// has names of its own, and models of several modalities have those of their
// language model under text_config.
type otherConfig struct {
	Hidden       int64        `json:"hidden_size"`
	Embd         int64        `json:"n_embd"`
	Intermediate int64        `json:"intermediate_size"`
	Inner        int64        `json:"n_inner"`
	Layers       int64        `json:"num_hidden_layers"`
	LayerCount   int64        `json:"n_layer"`
	Heads        int64        `json:"num_attention_heads"`
	HeadCount    int64        `json:"n_head"`
	KVHeads      int64        `json:"num_key_value_heads"`
	HeadDim      int64        `json:"head_dim"`
	Vocab        int64        `json:"vocab_size"`
	Context      int64        `json:"max_position_embeddings"`
	Positions    int64        `json:"n_positions"`
	Tied         *bool        `json:"tie_word_embeddings"`
	Text         *otherConfig `json:"text_config"`
}

// fillOther sets what a config of another model than the Llama family's says,
// as far as it is plausible: nothing is checked against it, since fields of
// the same name may mean something else there. Its name is set where its layout
// is known.
func (c config) fillOther(a *Architecture) {
	var o otherConfig
	if c.fields == nil || json.Unmarshal(c.fields, &o) != nil {
		return
	}
	if o.Text != nil && o.Heads == 0 {
		tied := o.Tied
		o = *o.Text
		o.Tied = cmp.Or(tied, o.Tied)
	}
	tied, known := tiedByDefault[c.ModelType]
	if known {
		a.Name = c.ModelType
	}
	if o.Tied != nil {
		tied = *o.Tied
	}
	a.TiedEmbeddings = tied
	a.Layers = plausible(cmp.Or(o.Layers, o.LayerCount))
	a.Hidden = plausible(cmp.Or(o.Hidden, o.Embd))
	a.Intermediate = plausible(cmp.Or(o.Intermediate, o.Inner))
	a.Heads = plausible(cmp.Or(o.Heads, o.HeadCount))
	a.KVHeads = plausible(cmp.Or(o.KVHeads, a.Heads))
	if a.KVHeads == 0 || a.Heads%a.KVHeads != 0 {
		a.Heads, a.KVHeads = 0, 0
	}
	if a.HeadDim = plausible(o.HeadDim); a.HeadDim == 0 && a.Heads > 0 && a.Hidden%a.Heads == 0 {
		a.HeadDim = a.Hidden / a.Heads
	}
	a.Vocab, a.Context = plausible(o.Vocab), plausible(cmp.Or(o.Context, o.Positions))
}

// plausible returns a dimension, 0 for what is none.
func plausible(n int64) int64 {
	if n < 0 || n > maxDimension {
		return 0
	}
	return n
}

// turnConv1D marks the weights of GPT-2's Conv1D, which are stored [in, out].
func turnConv1D(ix *Index) {
	table := ggufnames.ForModel("gpt2")
	for i := range ix.Tensors {
		t := &ix.Tensors[i]
		t.Transposed = t.Transposed || len(t.Shape) == 2 && table.Transposed(t.Name)
	}
}
