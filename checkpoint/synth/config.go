package synth

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// torchNames are the names that config.json has for element types.
var torchNames = map[dtype.Type]string{dtype.BF16: "bfloat16", dtype.F16: "float16", dtype.F32: "float32"}

// newConfig writes the config.json of picked dimensions.
func newConfig(d Dims, t dtype.Type) ([]byte, error) {
	return indent(map[string]any{
		"architectures":           []string{"LlamaForCausalLM"},
		"model_type":              "llama",
		"hidden_size":             d.Hidden,
		"intermediate_size":       d.Intermediate,
		"num_hidden_layers":       d.Layers,
		"num_attention_heads":     d.Heads,
		"num_key_value_heads":     d.KVHeads,
		"head_dim":                d.HeadDim,
		"vocab_size":              d.Vocab,
		"max_position_embeddings": 8192,
		"rms_norm_eps":            1e-5,
		"rope_theta":              500000.0,
		"hidden_act":              "silu",
		"attention_bias":          false,
		"mlp_bias":                false,
		"tie_word_embeddings":     d.Tied,
		"bos_token_id":            1,
		"eos_token_id":            2,
		"torch_dtype":             torchNames[t],
	})
}

// readConfig takes the dimensions from a config.json, and returns it with the
// element type that is written.
func readConfig(data []byte, t dtype.Type) (Dims, []byte, error) {
	a, err := checkpoint.ParseConfig(data)
	if err != nil {
		return Dims{}, nil, err
	}
	d := Dims{
		Hidden: a.Hidden, Intermediate: a.Intermediate, Layers: a.Layers, Heads: a.Heads,
		KVHeads: a.KVHeads, HeadDim: a.HeadDim, Vocab: a.Vocab, Tied: a.TiedEmbeddings,
	}
	if a.Name != "llama" && a.Name != "mistral" {
		return Dims{}, nil, recovery.Errorf(recovery.Unsupported, "synth writes models of type llama and mistral, not %s", a.Name)
	}
	if min(d.Hidden, d.Intermediate, d.Layers, d.Heads, d.Vocab) == 0 {
		return Dims{}, nil, recovery.Errorf(recovery.Usage, "the config leaves out a dimension: it needs hidden_size, intermediate_size, num_hidden_layers, num_attention_heads and vocab_size")
	}
	fields := map[string]any{}
	numbers := json.NewDecoder(bytes.NewReader(checkpoint.StandardJSON(data)))
	numbers.UseNumber() // write numbers back as they were
	if err := numbers.Decode(&fields); err != nil {
		return Dims{}, nil, recovery.Errorf(recovery.Usage, "config: %w", err)
	}
	for name := range fields {
		if name == "dtype" || strings.HasPrefix(name, "quantization") {
			delete(fields, name) // newer name of torch_dtype; and what is written is not quantized
		}
	}
	fields["torch_dtype"] = torchNames[t]
	text, err := indent(fields)
	return d, text, err
}

func indent(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}
