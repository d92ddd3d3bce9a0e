package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// A quantizer's own file counts where config.json does not say how weights are
// quantized.
func TestQuantFiles(t *testing.T) {
	fp8 := []safetensors.Tensor{{Name: "l.weight", DType: dtype.F8E4M3, Shape: []int64{8, 16}}, {Name: "l.weight_scale", DType: dtype.F32}, {Name: "l.input_scale", DType: dtype.F32}}
	gptq := []safetensors.Tensor{{Name: "l.qweight", DType: dtype.I32, Shape: []int64{4, 32}}, {Name: "l.qzeros", DType: dtype.I32, Shape: []int64{1, 4}}, {Name: "l.scales", DType: dtype.F16, Shape: []int64{1, 32}}}
	awq := []safetensors.Tensor{{Name: "l.qweight", DType: dtype.I32, Shape: []int64{32, 4}}, {Name: "l.qzeros", DType: dtype.I32, Shape: []int64{1, 4}}, {Name: "l.scales", DType: dtype.F16, Shape: []int64{1, 32}}}
	const plain = `{"model_type":"x"}`
	for what, c := range map[string]struct {
		tensors      []safetensors.Tensor
		config       string
		name, said   string
		method       string // "" for a checkpoint that is not quantized
		bits, groups int64
	}{
		"modelopt": {fp8, plain, "hf_quant_config.json",
			`{"producer":{"name":"modelopt","version":"0.27"},"quantization":{"quant_algo":"FP8","kv_cache_quant_algo":"FP8","exclude_modules":["lm_head"]}}`, "modelopt", 0, 0},
		"modelopt, of the cache alone": {fp8, plain, "hf_quant_config.json", `{"quantization":{"quant_algo":null,"kv_cache_quant_algo":"FP8"}}`, "", 0, 0},
		"gptq":                         {gptq, plain, "quantize_config.json", `{"bits":4,"group_size":32,"desc_act":false,"sym":true}`, "gptq", 4, 32},
		"awq":                          {awq, plain, "quant_config.json", `{"zero_point":true,"q_group_size":32,"w_bit":4,"version":"GEMM"}`, "awq", 4, 32},
		"config.json says it": {gptq, `{"model_type":"x","quantization_config":{"quant_method":"gptq","bits":4,"group_size":32}}`, "quantize_config.json",
			`{"bits":8,"group_size":16}`, "gptq", 4, 32},
		"of something else": {gptq, plain, "quant_config.json", `{"a":1}`, "", 0, 0},
	} {
		dir := writeFolder(t, c.tensors, map[string]string{configName: c.config, c.name: c.said})
		ix, err := openFolder(t, dir)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		q := ix.About().Quantization
		if c.method == "" {
			if q != nil || len(ix.Packed) > 0 {
				t.Errorf("%s: %+v, %d packed weights", what, q, len(ix.Packed))
			}
			continue
		}
		if q == nil || q.Method != c.method || q.Bits != c.bits || q.Group != c.groups || len(ix.Packed) != 1 || ix.Packed[0].Name != "l.weight" {
			t.Errorf("%s: %+v, packed %+v", what, q, ix.Packed)
		}
		if err := os.WriteFile(filepath.Join(dir, c.name), []byte("[1]"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openFolder(t, dir); what != "config.json says it" && recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("%s: a file that is none: %v", what, err)
		}
	}
}

// writeFolder returns a folder of a model of these tensors, and of other files.
func writeFolder(t *testing.T, tensors []safetensors.Tensor, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), tensors, nil)
	if err == nil {
		err = w.Commit()
	}
	for name, text := range texts {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func openFolder(t *testing.T, dir string) (*Index, error) {
	t.Helper()
	src, err := source.Open(t.Context(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	return Open(t.Context(), src)
}
