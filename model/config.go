package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// torchNames are the names that config.json uses for element types.
var torchNames = map[string]string{"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

// exportConfig returns the config.json of the exported model: the
// checkpoint's, or what a GGUF file's metadata says, with what the scheme
// changes. nil is none.
func (m *Model) exportConfig() ([]byte, error) {
	scheme := m.parts.Plan.Options.Scheme
	stored := m.parts.Index.Config
	if stored == nil {
		var err error
		if stored, err = configOfGGUF(m.parts.Index); err != nil {
			return nil, err
		}
	}
	torch, cast := torchNames[scheme]
	quantized := m.quantConfig()
	decoded, kept := m.packed()
	if kept != "" && (decoded || quantized != nil) {
		return nil, &recovery.Error{Class: recovery.Unsupported, Op: "export", Tensor: kept,
			Err: errors.New("it stays as the checkpoint's quantizer stored it, and other weights do not: no config.json says both"), Hint: "export with none"}
	}
	if quantized == nil && !decoded && (!cast || stored == nil) {
		return stored, nil // as it is, byte for byte
	}
	fields := map[string]json.RawMessage{}
	if stored != nil {
		if err := json.Unmarshal(stored, &fields); err != nil {
			return nil, &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "export", File: configName, Err: err}
		}
	}
	if decoded {
		delete(fields, "quantization_config") // of what is no more
	}
	change := func(key string, value any) error {
		b, err := json.Marshal(value)
		fields[key] = b
		return err
	}
	if cast {
		key := "torch_dtype"
		if _, ok := fields["dtype"]; ok {
			key = "dtype" // its newer name
		}
		if err := change(key, torch); err != nil {
			return nil, err
		}
	}
	if quantized != nil {
		if err := change("quantization_config", quantized); err != nil {
			return nil, err
		}
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

// packed says whether weights that a quantizer had packed were decoded, and
// names a part of one that is still there.
func (m *Model) packed() (decoded bool, kept string) {
	for i := range m.parts.Plan.Tensors {
		decoded = decoded || len(m.parts.Plan.Tensors[i].Parts) > 0
	}
	for _, w := range m.parts.Index.Packed {
		for _, part := range slices.Concat(w.Parts, w.Beside) {
			t := &m.parts.Index.Tensors[part]
			if i, ok := m.byName[t.Name]; ok && len(m.parts.Plan.Tensors[i].Parts) == 0 && m.parts.Plan.Tensors[i].Scheme == "none" {
				kept = t.Name
			}
		}
	}
	for k, undecoded := range shard.Undecoded(m.parts.Index) {
		name := m.parts.Index.Tensors[k].Name
		if _, ok := m.byName[name]; ok && undecoded {
			kept = name
		}
	}
	return decoded, kept
}
