package checkpoint

import (
	"encoding/json"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/source"
)

// Index is everything a checkpoint says about itself, validated.
type Index struct {
	Format       string        `json:"format"`  // "safetensors", "gguf" or "onnx"
	Files        []source.File `json:"files"`   // those that hold tensors, in shard order
	Tensors      []Tensor      `json:"tensors"` // by file, then offset
	Packed       []Packed      `json:"packed,omitempty"`
	Architecture Architecture  `json:"architecture"`
	// TPPlan is config.json's base_model_tp_plan: how to divide modules, such
	// as "layers.*.mlp.up_proj": "colwise". See shard.Build.
	TPPlan    map[string]string `json:"tp_plan,omitempty"`
	Quantized bool              `json:"quantized,omitempty"` // an ONNX graph computes with quantized weights
	Config    json.RawMessage   `json:"config,omitempty"`    // config.json, compact, as StandardJSON makes it
	Metadata  map[string]string `json:"metadata,omitempty"`
	SideFiles []source.File     `json:"side_files,omitempty"` // config, tokenizer, generation files
	// Require is what the model asks of the machines that load it.
	Require require.Requirements `json:"require,omitzero"`
}

// Tensor is one named array.
type Tensor = header.Tensor

// Packed is a weight that a quantizer stored as several tensors.
type Packed struct {
	Name  string  `json:"name"`  // of the weight, as it was before: "model.layers.0.mlp.up_proj.weight"
	Shape []int64 `json:"shape"` // of the weight, [out, in]
	Form  string  `json:"form"`  // as quant/form names it, of a matrix whose last dimension is the columns
	Parts []int   `json:"parts"` // of Index.Tensors: the form's, in its order
	// Beside are tensors that belong to the weight but that its values do not
	// depend on, such as scales of activations.
	Beside []int `json:"beside,omitempty"`
}

// Matrix returns the rows and columns that the form is of.
func (p *Packed) Matrix() (rows, cols int64) {
	rows = 1
	for _, d := range p.Shape[:len(p.Shape)-1] {
		rows *= d
	}
	return rows, p.Shape[len(p.Shape)-1]
}

// Architecture is what names and config.json, or a GGUF file's metadata, tell
// about the model. Zero means unknown.
type Architecture struct {
	Name           string  `json:"name"` // "llama"; "" where the names fit nothing known; what a GGUF file says
	Layers         int64   `json:"layers,omitempty"`
	Hidden         int64   `json:"hidden,omitempty"`
	Intermediate   int64   `json:"intermediate,omitempty"`
	Heads          int64   `json:"heads,omitempty"`
	KVHeads        int64   `json:"kv_heads,omitempty"`
	HeadDim        int64   `json:"head_dim,omitempty"`
	Vocab          int64   `json:"vocab,omitempty"`
	Context        int64   `json:"context,omitempty"`
	RopeTheta      float64 `json:"rope_theta,omitempty"`
	NormEps        float64 `json:"norm_eps,omitempty"`
	TiedEmbeddings bool    `json:"tied_embeddings,omitempty"`
	Parameters     int64   `json:"parameters"` // elements of all tensors; tied ones once
}
