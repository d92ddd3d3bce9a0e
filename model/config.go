package model

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// torchNames are the names that config.json uses for element types.
var torchNames = map[string]string{"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

// exportConfig returns the config.json of the exported model: the
// checkpoint's, with what the scheme changes. nil is none.
func (m *Model) exportConfig() ([]byte, error) {
	scheme := m.parts.Plan.Options.Scheme
	stored := m.parts.Index.Config
	torch, cast := torchNames[scheme]
	if !cast && scheme != "int8" || cast && stored == nil {
		return stored, nil // as it is, byte for byte
	}
	fields := map[string]json.RawMessage{}
	if stored != nil {
		if err := json.Unmarshal(stored, &fields); err != nil {
			return nil, &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "export", File: configName, Err: err}
		}
	}
	change := func(key string, value any) error {
		b, err := json.Marshal(value)
		fields[key] = b
		return err
	}
	var err error
	if cast {
		key := "torch_dtype"
		if _, ok := fields["dtype"]; ok {
			key = "dtype" // its newer name
		}
		err = change(key, torch)
	} else {
		err = change("quantization_config", m.compressed())
	}
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// compressedTensors is the quantization_config of an int8 model, in the words
// of compressed-tensors (QuantizationConfig, QuantizationScheme and
// QuantizationArgs of its quantization package), format int-quantized: an I8
// weight and a weight_scale for each output channel.
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
}

type compressedArgs struct {
	Bits      int    `json:"num_bits"`
	Type      string `json:"type"`
	Symmetric bool   `json:"symmetric"`
	Strategy  string `json:"strategy"`
	Dynamic   bool   `json:"dynamic"`
	GroupSize *int   `json:"group_size"`
}

// compressed describes the model as the W8A8 preset does: weights by output
// channel, activations quantized by token while the engine runs, since that
// is the form of int-quantized that engines have kernels for.
func (m *Model) compressed() compressedTensors {
	ignore := []string{strings.TrimSuffix(head, ".weight")}
	for i := range m.parts.Plan.Tensors {
		t := &m.parts.Plan.Tensors[i]
		module, ok := strings.CutSuffix(t.Name, ".weight")
		if ok && len(t.Shape) == 2 && t.Layout.Planes[0].DType != dtype.I8 && t.Name != embedding && t.Name != head {
			ignore = append(ignore, module)
		}
	}
	slices.Sort(ignore)
	weights := compressedArgs{Bits: 8, Type: "int", Symmetric: true, Strategy: "channel"}
	inputs := compressedArgs{Bits: 8, Type: "int", Symmetric: true, Strategy: "token", Dynamic: true}
	return compressedTensors{
		Groups: map[string]compressedGroup{"group_0": {Targets: []string{"Linear"}, Weights: weights, Inputs: &inputs}},
		Format: "int-quantized", Ignore: ignore, Method: "compressed-tensors", Status: "compressed",
	}
}
