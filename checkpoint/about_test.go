package checkpoint_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/recovery"
)

// TestAbout reads what quantizers and frameworks write into config.json, in
// the forms of their documentation.
func TestAbout(t *testing.T) {
	for config, want := range map[string]checkpoint.About{
		`{}`: {},
		`{"model_type": "gemma2", "torch_dtype": "bfloat16", "transformers_version": "4.51.0"}`: {ModelType: "gemma2", DType: "bfloat16", Framework: "transformers", FrameworkVersion: "4.51.0"},
		`{"dtype": "float16", "transformers_version": "5.0.0"}`:                                 {DType: "float16", Framework: "transformers", FrameworkVersion: "5.0.0"},
		`{"model_type": "gemma3", "text_config": {"torch_dtype": "float32"}}`:                   {ModelType: "gemma3", DType: "float32"},
		`{"tie_word_embeddings": false}`:                                                        {TiedEmbeddings: new(bool)},
		`{"torch_dtype": 16, "model_type": "x"}`:                                                {ModelType: "x"},
		`{"quantization_config": null}`:                                                         {},
		`{"quantization_config": {}}`:                                                           {Quantization: &checkpoint.Quantization{Method: "unknown"}},
		`{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true}}`:      {Quantization: &checkpoint.Quantization{Method: "gptq", Bits: 4, Group: 128}},
		`{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": true}}`: {Quantization: &checkpoint.Quantization{Method: "awq", Format: "gemm", Bits: 4, Group: 64}},
		`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}}`:        {Quantization: &checkpoint.Quantization{Method: "bitsandbytes", Format: "nf4", Bits: 4}},
		`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}`:                                      {Quantization: &checkpoint.Quantization{Method: "bitsandbytes", Bits: 8}},
		`{"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64]}}`:                      {Quantization: &checkpoint.Quantization{Method: "fp8", Format: "e4m3", Bits: 8, Group: 64}},
		`{"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}`:                            {Quantization: &checkpoint.Quantization{Method: "mxfp4"}},
		`{"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
			{"group_0": {"weights": {"num_bits": 4, "group_size": 32, "type": "int"}, "targets": ["Linear"]}}}}`: {Quantization: &checkpoint.Quantization{Method: "compressed-tensors", Format: "pack-quantized", Bits: 4, Group: 32}},
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "model.safetensors"), tensors{"a": {1}})
		writeText(t, filepath.Join(dir, "config.json"), config)
		ix, err := open(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ix.About()); diff != "" {
			t.Errorf("%s: %s", config, diff)
		}
	}
}

// TestAboutFormats tells the same of each format.
func TestAboutFormats(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K")
	tied := true
	for form, want := range map[string]checkpoint.About{
		"hf-f16":                     {ModelType: "llama", Framework: "pytorch", DType: "float16", TiedEmbeddings: &tied},
		"gguf/stories260K-q8_0.gguf": {Framework: "llama.cpp", FormatVersion: "3", Quantization: &checkpoint.Quantization{Method: "ggml", Format: "Q8_0"}},
		"gguf/stories260K-f16.gguf":  {Framework: "llama.cpp", FormatVersion: "3"},
		"onnx-external":              {Framework: "own-script", FormatVersion: "8"},
	} {
		ix, err := open(t, filepath.Join(stories, form))
		if err != nil {
			t.Fatal(err)
		}
		got := ix.About()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	writeModel(t, path, []onnxtest.Message{onnxtest.Node("MatMulNBits", "y", "x", "w").Text(7, "com.microsoft")}, onnxtest.Tensor("w", 2, 1).Raw([]byte{1}))
	ix, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	want := checkpoint.About{Framework: "onnxtest", FrameworkVersion: "1.0", FormatVersion: "10", Quantization: &checkpoint.Quantization{Method: "onnx"}}
	if diff := cmp.Diff(want, ix.About()); diff != "" {
		t.Error(diff)
	}
}

// TestTPPlan reads base_model_tp_plan, and refuses what is none.
func TestTPPlan(t *testing.T) {
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf(`"m%d": "colwise"`, i)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "model.safetensors"), tensors{"a": {1}})
	digests := map[string]bool{}
	for config, want := range map[string]recovery.Class{
		`{"base_model_tp_plan": {"layers.*.mlp.up_proj": "colwise"}}`:           "",
		`{"base_model_tp_plan": {"layers.*.mlp.up_proj": "rowwise"}}`:           "",
		`{"base_model_tp_plan": null}`:                                          "",
		`{"base_model_tp_plan": ["colwise"]}`:                                   recovery.InvalidCheckpoint,
		`{"base_model_tp_plan": {"a": 1}}`:                                      recovery.InvalidCheckpoint,
		`{"base_model_tp_plan": {` + strings.Join(many, ",") + `}}`:             recovery.InvalidCheckpoint,
		`{"base_model_tp_plan": {"` + strings.Repeat("x", 257) + `": "local"}}`: recovery.InvalidCheckpoint,
	} {
		writeText(t, filepath.Join(dir, "config.json"), config)
		ix, err := open(t, dir)
		if recovery.ClassOf(err) != want {
			t.Errorf("%.60s: %v, want class %q", config, err, want)
		}
		if err == nil {
			digests[ix.Digest()] = true
		}
	}
	if len(digests) != 3 {
		t.Errorf("%d digests of two plans and none: each should have its own", len(digests))
	}
}
