package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/gantry-ml/gantry/dtype"
)

// About is what a checkpoint says about itself besides its architecture. What
// it does not say is empty.
type About struct {
	ModelType        string `json:"model_type,omitempty"`        // config.json's, whether or not its rules are known
	Framework        string `json:"framework,omitempty"`         // that it was written by or for: "pytorch", "llama.cpp"
	FrameworkVersion string `json:"framework_version,omitempty"` // of that
	Version          string `json:"version,omitempty"`           // of the model
	FormatVersion    string `json:"format_version,omitempty"`    // of GGUF; ONNX's IR version
	DType            string `json:"dtype,omitempty"`             // torch_dtype: what engines are to compute in
	// TiedEmbeddings is config.json's tie_word_embeddings: the head is the
	// embedding. nil where it does not say.
	TiedEmbeddings *bool `json:"tie_word_embeddings,omitempty"`
	// Quantization says how weights are quantized already; nil where they are
	// not.
	Quantization *Quantization `json:"quantization,omitempty"`
}

// Quantization is how a checkpoint's weights are quantized.
type Quantization struct {
	// Method is config.json's quant_method, such as "gptq"; "ggml" for block
	// types; "onnx" for a graph that computes with quantized weights.
	Method string `json:"method"`
	Format string `json:"format,omitempty"`     // of compressed-tensors; the block type that most bytes have
	Bits   int64  `json:"bits,omitempty"`       // of a weight
	Group  int64  `json:"group_size,omitempty"` // weights that share a scale
}

// frameworks are the words of safetensors' metadata key "format".
var frameworks = map[string]string{"pt": "pytorch", "tf": "tensorflow", "flax": "flax", "np": "numpy", "mlx": "mlx", "jax": "jax"}

// About tells what the checkpoint says about itself.
func (ix *Index) About() About {
	c := aboutConfig{}
	// A field of another type than usual says nothing; the others are read all
	// the same. Without a config.json there is nothing to read.
	_ = json.Unmarshal(ix.Config, &c)
	said := func(keys ...string) string {
		for _, k := range keys {
			if v := ix.Metadata[k]; v != "" {
				return v
			}
		}
		return ""
	}
	a := About{ModelType: c.ModelType, TiedEmbeddings: c.Tied, DType: cmp.Or(c.TorchDType, c.DType, c.Text.TorchDType, c.Text.DType)}
	switch ix.Format {
	case FormatGGUF:
		a.Framework, a.Version, a.FormatVersion = "llama.cpp", said("general.version"), said(ggufVersionKey)
	case FormatONNX:
		a.Framework, a.FrameworkVersion = said("producer_name"), said("producer_version")
		a.Version, a.FormatVersion = said("model_version"), said("ir_version")
	default:
		a.Framework, a.Version = cmp.Or(frameworks[said("format")], said("format", "framework")), said("version", "model_version")
		if c.Transformers != "" {
			a.Framework, a.FrameworkVersion = cmp.Or(a.Framework, "transformers"), c.Transformers
		}
	}
	a.Quantization = ix.quantization(c.Quantization)
	return a
}

// aboutConfig are the fields of config.json that About shows.
type aboutConfig struct {
	ModelType    string              `json:"model_type"`
	Transformers string              `json:"transformers_version"`
	TorchDType   string              `json:"torch_dtype"`
	DType        string              `json:"dtype"` // its newer name
	Tied         *bool               `json:"tie_word_embeddings"`
	Quantization *quantizationConfig `json:"quantization_config"`
	Text         struct {            // of a model that has other parts too
		TorchDType string `json:"torch_dtype"`
		DType      string `json:"dtype"`
	} `json:"text_config"`
}

// quantizationConfig are the fields that quantizers write, each its own.
type quantizationConfig struct {
	Method     string       `json:"quant_method"`
	Format     string       `json:"format"`            // compressed-tensors
	Version    string       `json:"version"`           // AWQ: "gemm"
	Bits       int64        `json:"bits"`              // GPTQ
	WBit       int64        `json:"w_bit"`             // AWQ
	Group      int64        `json:"group_size"`        // GPTQ
	QGroup     int64        `json:"q_group_size"`      // AWQ
	Checkpoint string       `json:"checkpoint_format"` // GPTQ: "gptq_v2" stores zero points as they are
	FourBit    bool         `json:"load_in_4bit"`      // bitsandbytes
	EightBit   bool         `json:"load_in_8bit"`
	FourKind   string       `json:"bnb_4bit_quant_type"`
	Algorithm  string       `json:"quant_algo"`        // modelopt: "FP8", "NVFP4"
	FP8        string       `json:"fmt"`               // FP8 by block: "e4m3"
	Block      [3]int64     `json:"weight_block_size"` // its rows and columns, then 0
	Groups     configGroups `json:"config_groups"`     // compressed-tensors
}

// configGroups are compressed-tensors' settings, by the name of a group of
// weights.
type configGroups map[string]configGroup

type configGroup struct {
	Targets json.RawMessage `json:"targets"` // modules: names, "re:" and a pattern, classes
	Weights struct {
		Bits  int64     `json:"num_bits"`
		Group int64     `json:"group_size"`
		Block *[3]int64 `json:"block_structure"` // as weight_block_size
	} `json:"weights"`
}

// maxConfigGroups bounds the objects among them; models have one to three
// groups.
const maxConfigGroups = 1024

// UnmarshalJSON reads the groups. More than a model can have say nothing.
func (g *configGroups) UnmarshalJSON(text []byte) error {
	if bytes.Count(text, []byte{'{'}) > maxConfigGroups {
		return nil
	}
	return json.Unmarshal(text, (*map[string]configGroup)(g))
}

// quantization tells how the weights are quantized: as config.json says, else
// as the graph or the tensors' types do.
func (ix *Index) quantization(c *quantizationConfig) *Quantization {
	switch {
	case c != nil:
		q := &Quantization{Method: cmp.Or(c.Method, "unknown"), Format: cmp.Or(c.Format, c.Version, c.FourKind, c.FP8, c.Algorithm),
			Bits: cmp.Or(c.Bits, c.WBit), Group: cmp.Or(c.Group, c.QGroup)}
		for _, name := range slices.Sorted(maps.Keys(c.Groups)) { // the first that says it
			w := c.Groups[name].Weights
			q.Bits, q.Group = cmp.Or(q.Bits, w.Bits), cmp.Or(q.Group, w.Group)
		}
		switch {
		case c.FourBit:
			q.Bits = cmp.Or(q.Bits, 4)
		case c.EightBit, c.FP8 != "":
			q.Bits = cmp.Or(q.Bits, 8)
		}
		q.Group = cmp.Or(q.Group, c.Block[1], c.Block[0])
		return q
	case ix.Quantized:
		return &Quantization{Method: "onnx"}
	}
	bytes := map[dtype.Type]int64{}
	for _, t := range ix.Tensors {
		if t.DType.Quantized() {
			bytes[t.DType] += t.Bytes
		}
	}
	if len(bytes) == 0 {
		return nil
	}
	var most dtype.Type
	for t, n := range bytes {
		if n > bytes[most] || n == bytes[most] && t < most {
			most = t
		}
	}
	return &Quantization{Method: "ggml", Format: most.String()}
}

// String writes the quantization for people: "gptq, 4 bits in groups of 128".
func (q *Quantization) String() string {
	s := q.Method
	if q.Format != "" {
		s += " " + q.Format
	}
	if q.Bits > 0 {
		s += fmt.Sprintf(", %d bits", q.Bits)
	}
	if q.Group > 0 {
		s += fmt.Sprintf(" in groups of %d", q.Group)
	}
	return s
}
