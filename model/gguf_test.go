package model_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// stored is a tensor of a checkpoint that a test makes: values from first on,
// in steps of one.
type stored struct {
	name  string
	shape []int64
	first float32
}

// folder writes a checkpoint of F32.
func folder(t *testing.T, config string, tensors ...stored) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var list []safetensors.Tensor
	for _, x := range tensors {
		list = append(list, safetensors.Tensor{Name: x.name, DType: dtype.F32, Shape: x.shape})
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range tensors {
		var b []byte
		n, err := dtype.Elements(x.shape)
		if err != nil {
			t.Fatal(err)
		}
		for k := range n {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x.first+float32(k)))
		}
		if err := w.WriteTensor(i, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// written exports a model and returns the file's header and its F32 tensors.
func written(t *testing.T, dir, scheme string, tp int) (*gguf.Header, map[string][]float32) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.gguf")
	warnings, err := load(t, dir, scheme, tp).ExportGGUF(t.Context(), path)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "tokenizer") {
		t.Fatalf("%v, warnings %q", err, warnings)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]float32{}
	for _, x := range h.Tensors {
		for at := x.Offset; x.DType == dtype.F32 && at < x.Offset+x.Bytes; at += 4 {
			values[x.Name] = append(values[x.Name], math.Float32frombits(binary.LittleEndian.Uint32(b[at:])))
		}
	}
	return h, values
}

func shapeOf(h *gguf.Header, name string) []int64 {
	for _, x := range h.Tensors {
		if x.Name == name {
			return x.Shape
		}
	}
	return nil
}

// TestGGUFExperts: the matrices of a layer's experts are one tensor, in the
// order of their numbers.
func TestGGUFExperts(t *testing.T) {
	const experts = "model.layers.0.block_sparse_moe.experts."
	dir := folder(t, `{"model_type": "mixtral", "max_position_embeddings": 8, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 2,
		"num_attention_heads": 2, "rms_norm_eps": 1e-5, "num_local_experts": 2, "num_experts_per_tok": 1}`,
		stored{"model.embed_tokens.weight", []int64{3, 4}, 0},
		stored{experts + "1.w1.weight", []int64{2, 4}, 20}, stored{experts + "0.w1.weight", []int64{2, 4}, 10},
		stored{experts + "0.w2.weight", []int64{4, 2}, 30}, stored{experts + "1.w2.weight", []int64{4, 2}, 40},
		stored{"model.layers.0.block_sparse_moe.gate.weight", []int64{2, 4}, 50})
	h, values := written(t, dir, "none", 1)
	for name, want := range map[string]struct {
		shape  []int64
		values []float32
	}{
		"blk.0.ffn_gate_exps.weight": {[]int64{2, 2, 4}, []float32{10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 25, 26, 27}},
		"blk.0.ffn_down_exps.weight": {[]int64{2, 4, 2}, []float32{30, 31, 32, 33, 34, 35, 36, 37, 40, 41, 42, 43, 44, 45, 46, 47}},
		"blk.0.ffn_gate_inp.weight":  {[]int64{2, 4}, []float32{50, 51, 52, 53, 54, 55, 56, 57}},
	} {
		if got := shapeOf(h, name); !slices.Equal(got, want.shape) || !slices.Equal(values[name], want.values) {
			t.Errorf("%s: %v of %v, want %v of %v", name, values[name], got, want.values, want.shape)
		}
	}
	if v, _ := h.Find("llama.expert_count"); v.String() != "2" {
		t.Errorf("expert_count %s", v)
	}
}

// TestGGUFShiftAndTranspose: Gemma's norms get their 1, and what GPT-2 stores
// [in, out] is [out, in], also where ranks hold parts of it.
func TestGGUFShiftAndTranspose(t *testing.T) {
	dir := folder(t, `{"model_type": "gemma", "max_position_embeddings": 8, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 2,
		"num_attention_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-6}`,
		stored{"model.embed_tokens.weight", []int64{3, 4}, 0}, stored{"model.norm.weight", []int64{4}, 0.25})
	_, values := written(t, dir, "none", 1)
	if got := values["output_norm.weight"]; !slices.Equal(got, []float32{1.25, 2.25, 3.25, 4.25}) {
		t.Errorf("norm %v", got)
	}
	dir = folder(t, `{"model_type": "gpt2", "n_positions": 2, "n_embd": 2, "n_layer": 1, "n_head": 2, "layer_norm_epsilon": 1e-5}`,
		stored{"wte.weight", []int64{3, 2}, 0}, stored{"h.0.attn.c_attn.weight", []int64{2, 6}, 10}, stored{"h.0.attn.bias", []int64{1, 1, 2, 2}, 1})
	for _, tp := range []int{1, 2} {
		h, values := written(t, dir, "none", tp)
		if got, want := values["blk.0.attn_qkv.weight"], []float32{10, 16, 11, 17, 12, 18, 13, 19, 14, 20, 15, 21}; !slices.Equal(got, want) || !slices.Equal(shapeOf(h, "blk.0.attn_qkv.weight"), []int64{6, 2}) {
			t.Errorf("tp %d: %v, want %v", tp, got, want)
		}
		if len(h.Tensors) != 2 {
			t.Errorf("tp %d: %d tensors, the causal mask is none of llama.cpp's", tp, len(h.Tensors))
		}
	}
}

// TestGGUFOfF16: vectors are F32 whatever they were stored as, and Llama 3.1's
// factors are a tensor.
func TestGGUFOfF16(t *testing.T) {
	h, _ := written(t, stories(t, "hf-f16"), "none", 4)
	for _, x := range h.Tensors {
		if want := map[bool]dtype.Type{true: dtype.F32, false: dtype.F16}[len(x.Shape) == 1]; x.DType != want {
			t.Errorf("%s of shape %v is %s", x.Name, x.Shape, x.DType)
		}
	}
	dir := folder(t, `{"model_type": "llama", "max_position_embeddings": 64, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 2, "num_attention_heads": 1,
		"rms_norm_eps": 1e-5, "rope_theta": 10000, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 32}}`,
		stored{"model.embed_tokens.weight", []int64{3, 4}, 0})
	if _, values := written(t, dir, "none", 1); !slices.Equal(shapeOf1(values["rope_freqs.weight"]), []int64{2}) || values["rope_freqs.weight"][1] != 8 {
		t.Errorf("rope_freqs %v", values["rope_freqs.weight"])
	}
}

func shapeOf1(v []float32) []int64 { return []int64{int64(len(v))} }

// TestGGUFRefuses: what llama.cpp could not run is not written.
func TestGGUFRefuses(t *testing.T) {
	embedding := stored{"model.embed_tokens.weight", []int64{3, 4}, 0}
	const llama = `{"model_type": "llama", "max_position_embeddings": 8, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 2, "num_attention_heads": 2, "rms_norm_eps": 1e-5}`
	for name, c := range map[string]struct {
		config  string
		tensors []stored
		class   recovery.Class
		says    string
	}{
		"another architecture": {`{"model_type": "mamba"}`, []stored{embedding}, recovery.Unsupported, "mamba"},
		"another tensor":       {llama, []stored{embedding, {"model.layers.0.extra.weight", []int64{2, 2}, 0}}, recovery.Unsupported, "extra"},
		"half a head":          {strings.Replace(llama, "llama", "granite", 1), []stored{embedding, {"model.layers.0.self_attn.q_proj.bias", []int64{3}, 0}}, recovery.Unsupported, "heads of 2"},
		"a missing expert": {strings.Replace(llama, "llama", "mixtral", 1), []stored{embedding, {"model.layers.0.block_sparse_moe.experts.1.w1.weight", []int64{2, 4}, 0}},
			recovery.InvalidCheckpoint, "missing"},
		"uneven experts": {strings.Replace(llama, "llama", "mixtral", 1), []stored{embedding, {"model.layers.0.block_sparse_moe.experts.0.w1.weight", []int64{2, 4}, 0},
			{"model.layers.0.block_sparse_moe.experts.1.w1.weight", []int64{4, 4}, 0}}, recovery.Unsupported, "other experts"},
	} {
		path := filepath.Join(t.TempDir(), "x.gguf")
		_, err := load(t, folder(t, c.config, c.tensors...), "none", 1).ExportGGUF(t.Context(), path)
		if recovery.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s and %q", name, err, c.class, c.says)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind %v, %v", name, left, err)
		}
	}
}
