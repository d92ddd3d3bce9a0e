package model_test

import (
	"bytes"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// small writes a checkpoint whose rows have several groups.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":256,"intermediate_size":384,
		"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,"vocab_size":48,"tie_word_embeddings":false}`
	if _, err := synth.Write(t.Context(), dir, synth.Options{DType: dtype.BF16, Seed: 5, Config: []byte(config)}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPublishedLayouts holds that an exported file decodes, by the published
// definition, to what the model's own tensors decode to, close to what they
// were; and that the layout of ranks changes no byte of it.
func TestPublishedLayouts(t *testing.T) {
	plain := map[string]*model.Model{}
	for _, from := range []string{small(t), stories(t, "hf-bf16")} {
		plain[from] = load(t, from, "none", 1)
	}
	for scheme, near := range map[string]float64{ // most of a row's largest value that a value may be off
		"int8": 1. / 250, "int4": 1. / 14, "int2": 1. / 2.9, "fp8_e4m3": 1. / 16, "fp8_e5m2": 1. / 8, "nf4": .153, "nvfp4": .18, "fp8_e4m3:scale=tensor": 1. / 16,
		"custom:bits=3,symmetric=false":         1. / 6.9,
		"custom:bits=4,symmetric=false":         1. / 14,
		"custom:bits=5,group=32":                1. / 29,
		"custom:bits=6,symmetric=false,group=0": 1. / 61,
		"custom:bits=8,symmetric=false":         1. / 250,
	} {
		for from, plain := range plain {
			var file []byte
			for _, tp := range []int{1, 2} {
				m := load(t, from, scheme, tp)
				dir := filepath.Join(t.TempDir(), "out")
				if err := m.Export(t.Context(), dir); err != nil {
					t.Fatalf("%s: %v", scheme, err)
				}
				p := readPublished(t, dir)
				if file != nil && !bytes.Equal(file, p.file) {
					t.Errorf("%s: the file differs by layout", scheme)
				}
				file = p.file
				back := load(t, dir, "f32", 1) // by the loader's own readers
				decoded := 0
				for _, name := range m.Vars().Names() {
					x, err := m.Vars().Tensor(name)
					if err != nil {
						t.Fatal(err)
					}
					module, ok := strings.CutSuffix(name, "_proj.weight")
					if !ok {
						continue
					}
					got, quantized := p.weight(module + "_proj")
					if quantized != (x.Scheme() != "none") {
						t.Fatalf("%s: %s is %s, and quantized by config.json: %v", scheme, name, x.Scheme(), quantized)
					}
					if !quantized {
						continue
					}
					decoded++
					want, err := x.Float32()
					if err != nil {
						t.Fatal(err)
					}
					if !dense.MatchString(scheme) {
						checkBack(t, back, name, want)
					}
					y, err := plain.Vars().Tensor(name)
					if err != nil {
						t.Fatal(err)
					}
					original, err := y.Float32()
					if err != nil {
						t.Fatal(err)
					}
					checkDecoded(t, scheme+" "+name, got, want, original, near, int(x.Shape()[1]))
				}
				if decoded < 6 { // nvfp4 leaves rows of 172
					t.Errorf("%s: only %d weights are quantized", scheme, decoded)
				}
			}
		}
	}
}

// dense are bits that compressed-tensors packs across words, which it did not
// always: files of theirs are not taken for weights, since nothing tells which.
var dense = regexp.MustCompile("bits=[3567]")

// checkBack holds that the loader reads a weight as it was written.
func checkBack(t *testing.T, m *model.Model, name string, want []float32) {
	t.Helper()
	x, err := m.Vars().Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := x.Float32(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s of %s loads otherwise than it was written (%v)", name, m.Metadata().Name, err)
	}
}

func checkDecoded(t *testing.T, what string, got, want, original []float32, near float64, cols int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	var most float64
	for i := range want {
		if i%cols == 0 {
			most = 0
			for _, v := range original[i:][:cols] {
				most = max(most, math.Abs(float64(v)))
			}
		}
		if got[i] != want[i] {
			t.Fatalf("%s: value %d is %g in the file, %g in the model", what, i, got[i], want[i])
		}
		if off := math.Abs(float64(got[i]) - float64(original[i])); off > near*most {
			t.Fatalf("%s: value %d was %g and is %g, off by %g of its row", what, i, original[i], got[i], off/most)
		}
	}
}

// TestMixedLayouts holds that config.json says which module has which format
// where a file holds several, and that what it cannot say is refused.
func TestMixedLayouts(t *testing.T) {
	from := small(t)
	mixed := func(overrides ...quant.Override) *model.Model {
		t.Helper()
		m, err := loader.New(loader.WithQuantization(quant.Config{Scheme: "int4", Overrides: overrides})).Load(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	m := mixed(quant.Override{Pattern: "*.down_proj", Scheme: "int8"}, quant.Override{Pattern: "*.0.self_attn.q_proj", Scheme: "nvfp4"},
		quant.Override{Pattern: "*.up_proj", Scheme: "none"})
	dir := filepath.Join(t.TempDir(), "out")
	if err := m.Export(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	p := readPublished(t, dir)
	if p.config.Format != "mixed-precision" || len(p.config.Groups) != 3 {
		t.Errorf("format %q of %d groups", p.config.Format, len(p.config.Groups))
	}
	for _, name := range m.Vars().Names() {
		module, ok := strings.CutSuffix(name, ".weight")
		if !ok || !strings.HasSuffix(module, "_proj") {
			continue
		}
		x, err := m.Vars().Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		got, quantized := p.weight(module)
		if quantized != (x.Scheme() != "none") {
			t.Errorf("%s is %s, and quantized by config.json: %v", name, x.Scheme(), quantized)
			continue
		}
		if want, err := x.Float32(); quantized && (err != nil || !slices.Equal(got, want)) {
			t.Errorf("%s as %s differs (%v)", name, x.Scheme(), err)
		}
	}
	refused := mixed(quant.Override{Pattern: "*.down_proj", Scheme: "nf4"})
	if err := refused.Export(t.Context(), filepath.Join(t.TempDir(), "out")); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("bitsandbytes beside compressed-tensors: %v", err)
	}
}
