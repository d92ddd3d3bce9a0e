package checkpoint

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/gantry-ml/gantry/source"
)

// quantFiles are files of quantizers that say how a folder's weights are
// quantized, where config.json does not: NVIDIA's Model Optimizer's,
// AutoGPTQ's and AutoAWQ's. Each gives what config.json would have as
// quantization_config, nil where it says nothing.
var quantFiles = []struct {
	name string
	read func(data []byte) (map[string]json.RawMessage, error)
}{
	{"hf_quant_config.json", readModelopt},
	{"quantize_config.json", func(data []byte) (map[string]json.RawMessage, error) { return readMethod(data, "gptq", "bits") }},
	{"quant_config.json", func(data []byte) (map[string]json.RawMessage, error) { return readMethod(data, "awq", "w_bit") }},
}

// withQuantFile returns config.json with the quantization_config that a
// quantizer's file beside it says, or as it is.
func withQuantFile(ctx context.Context, src source.Source, files []source.File, c config) ([]byte, error) {
	for _, q := range quantFiles {
		if !slices.ContainsFunc(files, func(f source.File) bool { return f.Name == q.name }) || c.quantized() {
			continue
		}
		data, err := readAll(ctx, src, q.name, maxConfigBytes)
		if err != nil {
			return nil, err
		}
		said, err := q.read(StandardJSON(data))
		if err != nil {
			return nil, invalid(q.name, "not a quantizer's configuration: %w", err)
		}
		if said == nil {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(c.fields, &fields); err != nil {
			return nil, invalid(configName, "not a model's configuration: %w", err)
		}
		if fields["quantization_config"], err = json.Marshal(said); err != nil {
			return nil, err
		}
		return json.Marshal(fields)
	}
	return c.fields, nil
}

// readModelopt reads {"producer": …, "quantization": {"quant_algo": "FP8",
// "exclude_modules": […], …}}. Source: modelopt/torch/export,
// convert_hf_config.py, which writes the same as a quantization_config.
func readModelopt(data []byte) (map[string]json.RawMessage, error) {
	var f struct {
		Producer     json.RawMessage            `json:"producer"`
		Quantization map[string]json.RawMessage `json:"quantization"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	q := f.Quantization
	if algo := string(q["quant_algo"]); algo == "" || algo == "null" {
		return nil, nil // weights are not quantized; the cache of keys and values may be
	}
	q["quant_method"] = json.RawMessage(`"modelopt"`)
	if excluded, ok := q["exclude_modules"]; ok {
		q["ignore"] = excluded
		delete(q, "exclude_modules")
	}
	if f.Producer != nil {
		q["producer"] = f.Producer
	}
	return q, nil
}

// readMethod reads the fields of a quantization_config without a quant_method,
// one of which is key.
func readMethod(data []byte, method, key string) (map[string]json.RawMessage, error) {
	var q map[string]json.RawMessage
	if err := json.Unmarshal(data, &q); err != nil {
		return nil, err
	}
	if _, ok := q[key]; !ok {
		return nil, nil
	}
	if _, ok := q["quant_method"]; !ok {
		q["quant_method"], _ = json.Marshal(method) // a string
	}
	return q, nil
}
