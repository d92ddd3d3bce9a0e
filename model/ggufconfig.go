package model

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
)

// classNames are the model types whose config.json follows from a GGUF file's
// metadata, and transformers' classes for them. Of others it would have to say
// what GGUF does not.
var classNames = map[string]string{
	"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel",
}

// configOfGGUF returns the config.json of a GGUF file's model, as
// transformers' configuration classes read it. It is nil where the model has
// something that the fields here do not say: experts, scaled positions, or
// another architecture.
func configOfGGUF(ix *checkpoint.Index) ([]byte, error) {
	a := &ix.Architecture
	class, known := classNames[a.Name]
	if !known || ix.Format != checkpoint.FormatGGUF || a.Layers == 0 || a.Hidden == 0 || a.Heads == 0 {
		return nil, nil
	}
	for key := range ix.Metadata {
		if strings.Contains(key, ".rope.scaling.") || strings.HasSuffix(key, ".expert_count") || strings.HasSuffix(key, ".attention.sliding_window") {
			return nil, nil
		}
	}
	fields := map[string]any{
		"architectures": []string{class}, "model_type": a.Name, "vocab_size": a.Vocab, "tie_word_embeddings": a.TiedEmbeddings, "torch_dtype": mostFloats(ix),
	}
	eps := json.Number(strconv.FormatFloat(a.NormEps, 'g', -1, 32)) // GGUF has an F32
	if a.Name == "gpt2" {
		fields["n_embd"], fields["n_inner"], fields["n_layer"], fields["n_head"] = a.Hidden, a.Intermediate, a.Layers, a.Heads
		fields["n_positions"], fields["layer_norm_epsilon"] = a.Context, eps
	} else {
		fields["hidden_size"], fields["intermediate_size"], fields["num_hidden_layers"] = a.Hidden, a.Intermediate, a.Layers
		fields["num_attention_heads"], fields["num_key_value_heads"], fields["head_dim"] = a.Heads, a.KVHeads, a.HeadDim
		fields["max_position_embeddings"], fields["rms_norm_eps"], fields["rope_theta"] = a.Context, eps, a.RopeTheta
		fields["hidden_act"] = "silu"
	}
	for i := range ix.Tensors {
		switch name := ix.Tensors[i].Name; {
		case strings.HasSuffix(name, "rope_freqs.weight"):
			return nil, nil
		case (a.Name == "llama" || a.Name == "qwen3") && strings.HasSuffix(name, ".q_proj.bias"):
			fields["attention_bias"] = true
		}
	}
	for _, token := range []string{"bos", "eos"} {
		if id, err := strconv.ParseUint(ix.Metadata["tokenizer.ggml."+token+"_token_id"], 10, 32); err == nil {
			fields[token+"_token_id"] = id
		}
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	return append(b, '\n'), err
}

// mostFloats is torch's name of the type that most of a checkpoint's plain
// floats have, F32's where there are none.
func mostFloats(ix *checkpoint.Index) string {
	bytes := map[dtype.Type]int64{}
	for i := range ix.Tensors {
		if t := &ix.Tensors[i]; len(t.Shape) > 1 { // GGUF has vectors in F32
			bytes[t.DType] += t.Bytes
		}
	}
	kinds := []dtype.Type{dtype.F32, dtype.BF16, dtype.F16}
	return torchTypes[slices.MaxFunc(kinds, func(x, y dtype.Type) int { return cmp.Compare(bytes[x], bytes[y]) })]
}
