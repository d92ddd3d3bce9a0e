package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
)

// compressedTensors is a quantization_config in the words of
// compressed-tensors (QuantizationConfig, QuantizationScheme and
// QuantizationArgs of its quantization package).
type compressedTensors struct {
	Groups   map[string]compressedGroup `json:"config_groups"`
	Format   string                     `json:"format"`
	Ignore   []string                   `json:"ignore"`
	KVCache  any                        `json:"kv_cache_scheme"`
	Method   string                     `json:"quant_method"`
	Status   string                     `json:"quantization_status"`
	GlobalCR any                        `json:"global_compression_ratio"`
}

type compressedGroup struct {
	Targets []string        `json:"targets"`
	Weights compressedArgs  `json:"weights"`
	Inputs  *compressedArgs `json:"input_activations"`
	Outputs *compressedArgs `json:"output_activations"`
	Format  string          `json:"format"`
}

type compressedArgs struct {
	Bits       int    `json:"num_bits"`
	Type       string `json:"type"`
	Symmetric  bool   `json:"symmetric"`
	Strategy   string `json:"strategy"`
	Dynamic    bool   `json:"dynamic"`
	GroupSize  *int   `json:"group_size"`
	ScaleDType string `json:"scale_dtype,omitempty"`
}

// bitsAndBytes is a quantization_config in the words of transformers'
// BitsAndBytesConfig.
type bitsAndBytes struct {
	Method       string   `json:"quant_method"`
	Load4        bool     `json:"load_in_4bit"`
	Load8        bool     `json:"load_in_8bit"`
	Type         string   `json:"bnb_4bit_quant_type"`
	Storage      string   `json:"bnb_4bit_quant_storage"`
	ComputeDType string   `json:"bnb_4bit_compute_dtype"`
	Double       bool     `json:"bnb_4bit_use_double_quant"`
	Skip         []string `json:"llm_int8_skip_modules"`
}

// quantConfig returns the quantization_config that describes the model's
// tensors, nil where none is needed.
func (m *Model) quantConfig() any {
	modules, plain := m.quantized()
	if len(modules) == 0 {
		return nil
	}
	if _, ok := modules[nf4Format]; ok {
		return bitsAndBytes{Method: quant.BitsAndBytes, Load4: true, Type: "nf4", Storage: "uint8", ComputeDType: m.computeType(), Skip: plain}
	}
	c := compressedTensors{Groups: map[string]compressedGroup{}, Ignore: plain, Method: quant.CompressedTensors, Status: "compressed"}
	formats := make([]quant.Format, 0, len(modules))
	for f := range modules {
		formats = append(formats, f)
	}
	slices.SortFunc(formats, func(a, b quant.Format) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for i, f := range formats {
		g := groupOf(f)
		// An embedding is no Linear: one that an override quantizes is named.
		if len(formats) > 1 || slices.Contains(modules[f], strings.TrimSuffix(embedding, ".weight")) {
			g.Targets = modules[f]
		}
		c.Groups[fmt.Sprintf("group_%d", i)] = g
		switch c.Format {
		case "", f.Format:
			c.Format = f.Format
		default:
			c.Format = "mixed-precision"
		}
	}
	return c
}

var nf4Format = quant.Format{Method: quant.BitsAndBytes}

// quantized returns the modules whose weights are quantized, by format, and the
// linear ones whose weights are not, sorted.
func (m *Model) quantized() (modules map[quant.Format][]string, plain []string) {
	modules = map[quant.Format][]string{}
	plain = []string{}
	if _, ok := m.byName[head]; !ok { // it is tied, but engines have the module
		plain = append(plain, strings.TrimSuffix(head, ".weight"))
	}
	for i := range m.parts.Plan.Tensors {
		t := &m.parts.Plan.Tensors[i]
		module, ok := strings.CutSuffix(t.Name, ".weight")
		format, _ := quant.FormatOf(m.schemes[i])
		switch {
		case format.Method != quant.Plain:
			modules[format] = append(modules[format], module)
		case ok && len(t.Shape) == 2 && t.Name != embedding:
			plain = append(plain, module)
		}
	}
	for _, names := range modules {
		slices.Sort(names)
	}
	slices.Sort(plain)
	return modules, plain
}

// groupOf describes weights as compressed-tensors' presets do. Where 8 bits
// are quantized by channel, activations are quantized by token while the
// engine runs (W8A8, FP8_DYNAMIC), since that is the form that engines have
// kernels for; otherwise they are not (W4A16, NVFP4A16).
func groupOf(f quant.Format) compressedGroup {
	g := compressedGroup{Targets: []string{"Linear"}, Format: f.Format,
		Weights: compressedArgs{Bits: f.Bits, Type: "int", Symmetric: f.Symmetric, Strategy: f.Strategy}}
	if f.Float {
		g.Weights.Type = "float"
	}
	if f.Group > 0 {
		g.Weights.GroupSize = &f.Group
	}
	switch f.Format {
	case "int-quantized", "float-quantized":
		g.Inputs = &compressedArgs{Bits: f.Bits, Type: g.Weights.Type, Symmetric: true, Strategy: "token", Dynamic: true}
	case "nvfp4-pack-quantized":
		g.Weights.ScaleDType = "torch.float8_e4m3fn"
	}
	return g
}

// torchTypes are torch's names of the types that weights are stored in.
var torchTypes = map[dtype.Type]string{dtype.F32: "float32", dtype.F16: "float16", dtype.BF16: "bfloat16", dtype.F64: "float64"}

// computeType is the type that engines should multiply in: that of the first
// quantized tensor as it was stored.
func (m *Model) computeType() string {
	for i := range m.parts.Plan.Tensors {
		if f, _ := quant.FormatOf(m.schemes[i]); f.Method == quant.BitsAndBytes {
			return torchTypes[m.parts.Plan.Tensors[i].DType]
		}
	}
	return torchTypes[dtype.F32]
}
