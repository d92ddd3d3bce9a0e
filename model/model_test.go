package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stories returns a folder of the test data's trained model.
func stories(t testing.TB, form string) string {
	t.Helper()
	root := os.Getenv("GANTRY_TESTDATA")
	for dir, err := os.Getwd(); root == "" && err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		at := filepath.Join(dir, "shared", "testdata")
		if _, err := os.Stat(at); err == nil {
			root = at
		}
	}
	path := filepath.Join(root, "stories260K", form)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("test data not found: set GANTRY_TESTDATA to the folder that holds stories260K (%v)", err)
	}
	return path
}

// load returns a model that the test closes.
func load(t testing.TB, path, scheme string, tp int) *model.Model {
	t.Helper()
	m, err := loader.New(loader.WithQuantization(quant.Config{Scheme: scheme}), loader.WithLayout(shard.Layout{TP: tp})).Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func index(t testing.TB, path string) *checkpoint.Index {
	t.Helper()
	src, err := source.Open(t.Context(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

func TestVars(t *testing.T) {
	m := load(t, stories(t, "hf-f32"), "none", 2)
	vars := m.Vars()
	attn := vars.Sub("model.layers.0").Sub("self_attn")
	if got, want := attn.Names(), []string{"k_proj.weight", "o_proj.weight", "q_proj.weight", "v_proj.weight"}; !slices.Equal(got, want) {
		t.Errorf("names %v, want %v", got, want)
	}
	q, err := attn.Tensor("q_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	if q.Name() != "model.layers.0.self_attn.q_proj.weight" || !slices.Equal(q.Shape(), []int64{64, 64}) || q.DType() != dtype.F32 || q.Scheme() != "none" {
		t.Errorf("tensor %s %v %s %s", q.Name(), q.Shape(), q.DType(), q.Scheme())
	}
	if _, err := attn.Tensor("q_proj.bias"); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("a tensor that is not there: %v", err)
	}
	if _, err := vars.Tensor("lm_head.weight"); err != nil {
		t.Errorf("a tied head is the embedding: %v", err)
	}
	if got := vars.Missing(); !slices.Equal(got, []string{"model.layers.0.self_attn.q_proj.bias"}) {
		t.Errorf("missing %v", got)
	}
	if got, all := len(vars.Unused()), len(vars.Names()); got != all-1 {
		t.Errorf("%d of %d tensors unused after one was asked for", got, all)
	}
}

// A tensor that lies whole in one rank is seen where it lies; one that is cut
// is joined. Both have the same bytes.
func TestBytesAreViewsWhereTheyCanBe(t *testing.T) {
	const name = "model.layers.1.mlp.down_proj.weight"
	one, two := load(t, stories(t, "hf-f32"), "none", 1), load(t, stories(t, "hf-f32"), "none", 4)
	same := func(m *model.Model) bool {
		var seen [2]*byte
		for i := range seen {
			x, err := m.Vars().Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			b, err := x.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			seen[i] = &b[0]
		}
		return seen[0] == seen[1]
	}
	if !same(one) || same(two) {
		t.Errorf("views: tp 1 %v, tp 4 %v; want true, false", same(one), same(two))
	}
	a, _ := one.Vars().Tensor(name)
	b, _ := two.Vars().Tensor(name)
	x, err1 := a.Bytes()
	y, err2 := b.Bytes()
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
		t.Errorf("bytes differ by layout (%v)", err)
	}
}

// Casting on demand gives what a load with that cast gives.
func TestAsEqualsLoadedCast(t *testing.T) {
	kept := load(t, stories(t, "hf-f32"), "none", 2)
	for scheme, to := range map[string]dtype.Type{"f16": dtype.F16, "bf16": dtype.BF16, "f32": dtype.F32} {
		cast := load(t, stories(t, "hf-f32"), scheme, 1)
		for _, name := range kept.Vars().Names() {
			a, err1 := kept.Vars().Tensor(name)
			b, err2 := cast.Vars().Tensor(name)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			x, err1 := a.As(to)
			y, err2 := b.Bytes()
			if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
				t.Fatalf("%s as %s differs (%v)", name, to, err)
			}
		}
	}
	x, _ := kept.Vars().Tensor("model.norm.weight")
	if _, err := x.As(dtype.I8); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("cast to I8: %v", err)
	}
	if _, err := x.Plane(1); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a plane that is not there: %v", err)
	}
}

// Transforms change what Vars shows and nothing else.
func TestTransforms(t *testing.T) {
	path := stories(t, "hf-f32")
	plain := load(t, path, "int8", 1)
	m, err := loader.New(loader.WithLayout(shard.Layout{TP: 2}), loader.WithQuantization(quant.Config{Scheme: "int8"}),
		loader.WithTransforms(
			model.Transform{Match: `model\.layers\.(\d+)\.mlp\.up_proj\.weight`, Rename: "h.$1.up", Transpose: true, Scale: .5},
			model.Transform{Match: `model\.norm\.weight`, DType: dtype.BF16},
			model.Transform{Match: `.*`, Rename: "$0"},
		)).Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if len(m.Vars().Names()) != len(plain.Vars().Names()) {
		t.Error("tensors were lost")
	}
	a, err1 := plain.Vars().Tensor("model.layers.3.mlp.up_proj.weight")
	b, err2 := m.Vars().Sub("h.3").Tensor("up")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	x, err1 := a.Float32()
	y, err2 := b.Float32()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	rows, cols := a.Shape()[0], a.Shape()[1]
	if !slices.Equal(b.Shape(), []int64{cols, rows}) || b.DType() != dtype.F32 || b.Name() != "h.3.up" {
		t.Errorf("shown as %s %s of %v", b.Name(), b.DType(), b.Shape())
	}
	for r := range rows {
		for c := range cols {
			if y[c*rows+r] != x[r*cols+c]*.5 {
				t.Fatalf("value %d, %d: %g, want half of %g", r, c, y[c*rows+r], x[r*cols+c])
			}
		}
	}
	n, err1 := m.Vars().Tensor("model.norm.weight")
	o, err2 := plain.Vars().Tensor("model.norm.weight")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	u, err1 := n.Bytes()
	v, err2 := o.As(dtype.BF16)
	if err := errors.Join(err1, err2); err != nil || n.DType() != dtype.BF16 || !bytes.Equal(u, v) {
		t.Errorf("cast by a transform: %s, %v", n.DType(), err)
	}
	for name, x := range map[string]model.Transform{
		"malformed":             {Match: "("},
		"cast to integers":      {Match: ".*", DType: dtype.I8},
		"a vector to transpose": {Match: ".*norm.*", Transpose: true},
		"one name for all":      {Match: ".*", Rename: "x"},
	} {
		if _, err := loader.New(loader.WithTransforms(x)).Load(t.Context(), path); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With the originals kept, both forms are there, and neither is changed by the
// other.
func TestOriginals(t *testing.T) {
	path := stories(t, "hf-bf16")
	plain, stored := load(t, path, "int8", 1), load(t, path, "none", 1)
	m, err := loader.New(loader.WithKeepOriginal(true), loader.WithLayout(shard.Layout{TP: 2}),
		loader.WithQuantization(quant.Config{Scheme: "int8"})).Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, name := range m.Vars().Names() {
		a, _ := m.Vars().Tensor(name)
		b, _ := plain.Vars().Tensor(name)
		c, _ := stored.Vars().Tensor(name)
		x, err1 := a.Bytes()
		y, err2 := b.Bytes()
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s: int8 differs when the original is kept (%v)", name, err)
		}
		x, typ, err1 := a.Original()
		y, err2 = c.Bytes()
		if err := errors.Join(err1, err2); err != nil || typ != dtype.BF16 || !bytes.Equal(x, y) {
			t.Errorf("%s: the original differs (%v)", name, err)
		}
		if _, _, err := b.Original(); (recovery.ClassOf(err) == recovery.NotFound) != (b.DType() == dtype.I8) {
			t.Errorf("%s: original that was not kept: %v", name, err)
		}
	}
	var files [2][]byte
	for i, x := range []*model.Model{m, plain} {
		out := filepath.Join(t.TempDir(), "x.safetensors")
		if err := x.Export(t.Context(), out); err != nil {
			t.Fatal(err)
		}
		if files[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the kept originals change the export")
	}
}

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
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := kept.Export(ctx, filepath.Join(dir, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Readers always see one whole model, old or new, never one that was closed.
func TestSwapUnderReaders(t *testing.T) {
	path := stories(t, "hf-f32")
	s := model.NewSwap(load(t, path, "none", 1))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				m, release, err := s.Acquire()
				if err != nil {
					t.Error(err)
					return
				}
				x, err := m.Vars().Tensor("model.norm.weight")
				if err != nil {
					t.Error(err)
				} else if f, err := x.Float32(); err != nil || len(f) != 64 || f[0] == 0 {
					t.Errorf("read %d values: %v", len(f), err)
				}
				release()
				release() // letting go twice counts once
			}
		})
	}
	for _, scheme := range []string{"f16", "int8", "q8_0", "none"} {
		if err := s.Replace(t.Context(), load(t, path, scheme, 2)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Acquire(); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("acquired from a closed swap: %v", err)
	}
}

// A reader that holds on keeps its model, and does not keep others from the
// new one.
func TestSwapWaitsForReader(t *testing.T) {
	path := stories(t, "hf-f32")
	old, fresh := load(t, path, "none", 1), load(t, path, "none", 1)
	s := model.NewSwap(old)
	held, release, err := s.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Replace(ctx, fresh); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("replaced under a reader: %v", err)
	}
	now, letGo, err := s.Acquire()
	if err != nil || now != fresh || held != old {
		t.Errorf("new readers get the new model: %v", err)
	}
	letGo()
	x, err := held.Vars().Tensor("model.norm.weight")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Float32(); err != nil {
		t.Error(err)
	}
	release()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
