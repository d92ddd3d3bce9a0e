package model_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

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
