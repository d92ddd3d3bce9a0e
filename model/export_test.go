package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// The layout changes no byte of what is exported, and with none the tensors
// are the checkpoint's.
func TestExport(t *testing.T) {
	for _, scheme := range []string{"none", "f16", "bf16", "f32", "int8"} {
		var files [][]byte
		for _, tp := range []int{1, 4} {
			dir := filepath.Join(t.TempDir(), "out")
			if err := load(t, stories(t, "hf-sharded"), scheme, tp).Export(t.Context(), dir); err != nil {
				t.Fatalf("%s tp %d: %v", scheme, tp, err)
			}
			b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, b)
			if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			ix := index(t, dir)
			checkConfig(t, ix, scheme)
			if scheme == "none" {
				sameTensors(t, stories(t, "hf-sharded"), dir)
			}
		}
		if !bytes.Equal(files[0], files[1]) {
			t.Errorf("%s: the file differs by layout", scheme)
		}
	}
}

// checkConfig looks at what the scheme changes in config.json.
func checkConfig(t *testing.T, ix *checkpoint.Index, scheme string) {
	t.Helper()
	var c struct {
		TorchDType string `json:"torch_dtype"`
		Quant      *struct {
			Method string   `json:"quant_method"`
			Format string   `json:"format"`
			Ignore []string `json:"ignore"`
		} `json:"quantization_config"`
	}
	if err := json.Unmarshal(ix.Config, &c); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"none": "float32", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "int8": "float32"}[scheme]
	if c.TorchDType != want {
		t.Errorf("%s: torch_dtype %q, want %q", scheme, c.TorchDType, want)
	}
	if (c.Quant != nil) != (scheme == "int8") {
		t.Fatalf("%s: quantization_config %+v", scheme, c.Quant)
	}
	if scheme != "int8" {
		return
	}
	if c.Quant.Method != "compressed-tensors" || c.Quant.Format != "int-quantized" || !slices.Equal(c.Quant.Ignore, []string{"lm_head"}) {
		t.Errorf("quantization_config %+v", *c.Quant)
	}
	shapes := map[string][]int64{}
	types := map[string]dtype.Type{}
	for _, x := range ix.Tensors {
		shapes[x.Name], types[x.Name] = x.Shape, x.DType
	}
	const q = "model.layers.0.mlp.down_proj.weight"
	if types[q] != dtype.I8 || types[q+"_scale"] != dtype.F32 || !slices.Equal(shapes[q+"_scale"], []int64{64, 1}) {
		t.Errorf("int8: %s of %v, scale %s %v", types[q], shapes[q], types[q+"_scale"], shapes[q+"_scale"])
	}
}

func sameTensors(t *testing.T, a, b string) {
	t.Helper()
	x, y := load(t, a, "none", 1), load(t, b, "none", 1)
	if !slices.Equal(x.Vars().Names(), y.Vars().Names()) {
		t.Fatal("the export has other tensors")
	}
	for _, name := range x.Vars().Names() {
		p, _ := x.Vars().Tensor(name)
		q, _ := y.Vars().Tensor(name)
		u, err1 := p.Bytes()
		v, err2 := q.Bytes()
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(u, v) || p.DType() != q.DType() || !slices.Equal(p.Shape(), q.Shape()) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	dir := t.TempDir()
	q8 := load(t, stories(t, "hf-f32"), "q8_0", 1)
	if err := q8.Export(t.Context(), dir); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("q8_0: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	kept := load(t, stories(t, "hf-f32"), "none", 1)
	if err := kept.Export(t.Context(), filepath.Join(dir, "x.safetensors")); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("beside another model's config: %v", err)
	}
	own := filepath.Join(t.TempDir(), "model.safetensors")
	for _, scheme := range []string{"none", "int8"} {
		if err := load(t, stories(t, "hf-f32"), scheme, 1).Export(t.Context(), own); err != nil {
			t.Errorf("%s, in place of the same file: %v", scheme, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := kept.Export(ctx, filepath.Join(dir, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := q8.Export(t.Context(), filepath.Join(dir, "q8")); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("q8_0 to a new folder: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 { // the other model's config.json
		t.Errorf("left behind: %v, %v", left, err)
	}
}
