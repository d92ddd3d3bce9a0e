package checkpoint_test

import (
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
)

// TestOtherModels reads what the layout rules of other models than the Llama
// family's need: heads, by whatever name, and whether the head is tied. What is
// not plausible is not there, and no error.
func TestOtherModels(t *testing.T) {
	for _, c := range []struct {
		config string
		want   checkpoint.Architecture
	}{
		{`{"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 3, "vocab_size": 5}`,
			checkpoint.Architecture{Name: "gpt2", Hidden: 8, Heads: 2, KVHeads: 2, HeadDim: 4, Layers: 3, Vocab: 5, TiedEmbeddings: true}},
		{`{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}`,
			checkpoint.Architecture{Name: "bert", Hidden: 8, Heads: 2, KVHeads: 2, HeadDim: 4, Layers: 1, Intermediate: 16, TiedEmbeddings: true}},
		{`{"model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": true}`,
			checkpoint.Architecture{Name: "qwen3_moe", Hidden: 8, Heads: 4, KVHeads: 2, HeadDim: 16, TiedEmbeddings: true}},
		{`{"model_type": "gemma3", "tie_word_embeddings": false, "text_config": {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 1}}`,
			checkpoint.Architecture{Name: "gemma3", Hidden: 8, Heads: 4, KVHeads: 1, HeadDim: 2}},
		{`{"model_type": "novel", "num_attention_heads": 6, "num_key_value_heads": 2}`, checkpoint.Architecture{Heads: 6, KVHeads: 2}},
		{`{"model_type": "novel", "num_attention_heads": 6, "num_key_value_heads": 4, "hidden_size": -1}`, checkpoint.Architecture{}},
		{`{"model_type": "novel", "num_attention_heads": [1, 2]}`, checkpoint.Architecture{}},
		{`{"model_type": "phi3", "num_attention_heads": 99999999999}`, checkpoint.Architecture{Name: "phi3"}},
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "model.safetensors"), tensors{"h.0.attn.c_attn.weight": {2, 6}, "h.0.ln_1.weight": {2}})
		writeText(t, filepath.Join(dir, "config.json"), c.config)
		ix, err := open(t, dir)
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
			continue
		}
		a := ix.Architecture
		if a.Parameters = 0; a != c.want {
			t.Errorf("%s: got %+v, want %+v", c.config, a, c.want)
		}
		for _, x := range ix.Tensors { // Conv1D, which no other model has
			if x.Transposed != (a.Name == "gpt2" && len(x.Shape) == 2) {
				t.Errorf("%s: %s transposed %v", c.config, x.Name, x.Transposed)
			}
		}
	}
}
