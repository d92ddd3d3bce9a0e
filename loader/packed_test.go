package loader

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Packed weights are what their format's definition says, decoded exactly
// whatever the layout, and then what a scheme makes of them; under none every
// tensor keeps its bytes.
func TestPackedWeights(t *testing.T) {
	for name, format := range packedFormats {
		t.Run(name, func(t *testing.T) {
			f := newPackedFolder(1)
			dir := f.write(t, format(f))
			_, ix := open(t, dir)
			if len(ix.Packed) != len(packedWeights) || ix.Architecture.Parameters != 64*hidden+hidden*hidden*3/2+2*hidden*intermediate {
				t.Fatalf("%d weights, %d parameters, %+v", len(ix.Packed), ix.Architecture.Parameters, ix.Packed)
			}
			for _, l := range []shard.Layout{{TP: 1}, {TP: 2}, {TP: 4}, {TP: 8, DP: 2}} {
				same(t, "as f32, "+l.String(), all(t, load(t, dir, WithLayout(l), WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
			}
			for _, scheme := range []string{"none", "f16", "q8_0", "int8"} {
				var first [][][]byte
				for _, l := range []shard.Layout{{TP: 1}, {TP: 2}, {TP: 4}} {
					plan := build(t, ix, shard.Options{Layout: l, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
					if over := plan.ReadBytes - plan.StoredBytes; over < 0 || over > plan.StoredBytes/50 {
						t.Errorf("as %s, %s: reads %d of %d bytes", scheme, l, plan.ReadBytes, plan.StoredBytes)
					}
					if b, err := plan.JSON(); err != nil {
						t.Error(err)
					} else if back, err := shard.ParsePlan(b); err != nil || back.Digest() != plan.Digest() {
						t.Errorf("as %s, %s: a plan that was written does not read: %v", scheme, l, err)
					}
					m := newTeam(t, dir, plan, 2, NodeOptions{Staging: 4 << 20})
					for r, s := range m.load(t.Context()) {
						if s.Validation.Placed != (dtype.Tally{}) {
							t.Errorf("as %s, %s, rank %d: %+v", scheme, l, r, s.Validation)
						}
					}
					for i := range plan.Tensors {
						x, joined := &plan.Tensors[i], m.joined(i)
						if len(first) == i {
							first = append(first, joined)
						}
						if !slices.EqualFunc(joined, first[i], bytes.Equal) {
							t.Errorf("as %s, %s: %s differs", scheme, l, x.Name)
						}
						if scheme == "none" && !bytes.Equal(joined[0], f.data[x.Name]) {
							t.Errorf("%s: %s is not what is stored", l, x.Name)
						}
						if values := f.want[x.Name]; scheme == "q8_0" && values != nil {
							s, err := quant.Parse("q8_0")
							if err != nil {
								t.Fatal(err)
							}
							want := [][]byte{make([]byte, len(values)/32*34)}
							if s.Encode(want, bytesOf(values), dtype.F32, 1, len(values)); !bytes.Equal(joined[0], want[0]) {
								t.Errorf("%s: %s is not the encoding of its values", l, x.Name)
							}
						}
					}
					if want := len(f.names); scheme == "none" && len(plan.Tensors) != want {
						t.Errorf("%s: %d tensors, want %d", l, len(plan.Tensors), want)
					}
				}
			}
		})
	}
}

// gpt-oss's experts: two E2M1 in a byte, the first lower, and an exponent for
// each 32: x = FP4 × 2^(scale - 127).
func TestPackedExperts(t *testing.T) {
	const experts, out, in = 3, 8, 64
	f := newPackedFolder(3)
	q, scale := f.ints(experts*out*in, 16), make([]byte, experts*out*in/32)
	packed, x := make([]byte, len(q)/2), make([]float32, len(q))
	for i := range scale {
		scale[i] = byte(100 + f.r.IntN(40))
	}
	for i, v := range q {
		packed[i/2] |= byte(v) << (4 * (i % 2))
		x[i] = float32(math.Ldexp(float64(e2m1(v)), int(scale[i/32])-127))
	}
	const name = "model.layers.0.mlp.experts.down_proj"
	f.put(name+"_blocks", dtype.U8, packed, experts, out, in/32, 16)
	f.put(name+"_scales", dtype.U8, scale, experts, out, in/32)
	f.want[name] = x
	dir := f.write(t, `{"quant_method":"mxfp4"}`)
	for _, l := range []shard.Layout{{TP: 1}, {TP: 2}, {EP: 3}, {TP: 2, EP: 3}} {
		m := load(t, dir, WithLayout(l), WithQuantization(quant.Config{Scheme: "f32"}))
		same(t, "experts", all(t, m), f.want)
		w, err := m.Vars().Tensor(name)
		if err != nil || !slices.Equal(w.Shape(), []int64{experts, out, in}) {
			t.Errorf("%v: shape %v", err, w.Shape())
		}
	}
	for _, l := range []shard.Layout{{TP: 2}, {EP: 3}} {
		m := load(t, dir, WithLayout(l))
		for _, n := range []string{name + "_blocks", name + "_scales"} {
			w, err := m.Vars().Tensor(n)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := w.Bytes(); err != nil || !bytes.Equal(b, f.data[n]) {
				t.Errorf("%s, %s is not what is stored: %v", l, n, err)
			}
		}
	}
	_, ix := open(t, dir)
	for _, scheme := range []string{"none", "f32"} { // each rank has one expert's third
		p := build(t, ix, shard.Options{Layout: shard.Layout{EP: 3}, Scheme: scheme})
		for i := range p.Tensors {
			own := p.Ranks[1].SlicesOf(i)
			if x := &p.Tensors[i]; x.Experts > 0 && (len(own) != 1 || own[0].Rows != shard.Span{Start: x.Rows / 3, Stop: x.Rows / 3 * 2}) {
				t.Errorf("%s: rank 1 holds %+v of %s", scheme, own, x.Name)
			}
		}
	}
}

// Under none scales are cut as the weight is; where a cut falls inside a group
// each rank holds all of them, and the plan says so.
func TestPackedCuts(t *testing.T) {
	f := newPackedFolder(2)
	_, ix := open(t, f.write(t, packedFormats["awq"](f)))
	plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: "none"})
	want := map[string][4]int64{ // rows and columns of rank 1
		"mlp.up_proj.qweight":      {0, 256, 16, 32},
		"mlp.up_proj.qzeros":       {0, 4, 16, 32},
		"mlp.up_proj.scales":       {0, 4, 128, 256},
		"self_attn.k_proj.qweight": {0, 256, 4, 8},
		"mlp.down_proj.qweight":    {128, 256, 0, 32},
		"mlp.down_proj.qzeros":     {2, 4, 0, 32},
		"mlp.down_proj.scales":     {2, 4, 0, 256},
	}
	found := 0
	for i := range plan.Tensors {
		w, ok := want[strings.TrimPrefix(plan.Tensors[i].Name, "model.layers.0.")]
		if !ok {
			continue
		}
		found++
		s := plan.Ranks[1].SlicesOf(i)[0]
		if got := [4]int64{s.Rows.Start, s.Rows.Stop, s.Cols.Start, s.Cols.Stop}; got != w {
			t.Errorf("%s: rank 1 holds %v, want %v", plan.Tensors[i].Name, got, w)
		}
	}
	if found != len(want) || len(plan.Straddles) > 0 {
		t.Errorf("%d of %d tensors, straddles %v", found, len(want), plan.Straddles)
	}
	// 512 inputs over 16 ranks are 32 each, half of a group.
	ix.Architecture.Heads, ix.Architecture.KVHeads = 16, 4
	plan = build(t, ix, shard.Options{Layout: shard.Layout{TP: 16}, Scheme: "none"})
	if len(plan.Straddles) == 0 {
		t.Error("no straddles")
	}
	for _, n := range plan.Straddles {
		if !strings.Contains(n.Reason, "tp 16") {
			t.Errorf("%+v", n)
		}
	}
}

// A decoded model is exported without the quantization that it had, and reads
// as what it was decoded to; as it is stored it keeps it.
func TestPackedExport(t *testing.T) {
	f := newPackedFolder(4)
	dir := f.write(t, packedFormats["gptq"](f))
	for _, scheme := range []string{"none", "f32"} {
		out := filepath.Join(t.TempDir(), "out")
		if err := load(t, dir, WithQuantization(quant.Config{Scheme: scheme})).Export(t.Context(), out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(out, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]json.RawMessage
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		if _, has := c["quantization_config"]; has != (scheme == "none") {
			t.Errorf("as %s: %s", scheme, b)
		}
		same(t, "exported as "+scheme, all(t, load(t, out, WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
	}
}

// What does not fit together as config.json says stays tensors of its own, and
// a plan that was to decode them says so.
func TestPackedAndNot(t *testing.T) {
	f := newPackedFolder(5)
	dir := f.write(t, strings.Replace(packedFormats["gptq"](f), `"bits":4`, `"bits":8`, 1))
	_, ix := open(t, dir)
	if len(ix.Packed) != 0 || len(ix.Tensors) != len(f.names) {
		t.Errorf("%d packed weights of %d tensors", len(ix.Packed), len(ix.Tensors))
	}
	plan := build(t, ix, shard.Options{Scheme: "f32"})
	if len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "gptq") {
		t.Errorf("warnings %q", plan.Warnings)
	}
}

// Integers whose groups are in another order, or whose zero points are of a type
// that is not known, are not decoded as if they were not.
func TestPackedOtherwise(t *testing.T) {
	for _, ending := range []string{".weight_g_idx", ".weight_zero_point"} {
		f := newPackedFolder(7)
		config := packedFormats["int-quantized"](f)
		f.eachWeight(func(base string, out, in int) { f.i32(base+ending, make([]uint32, in), int64(in)) })
		if _, ix := open(t, f.write(t, config)); len(ix.Packed) != 0 {
			t.Errorf("%s: %d packed weights", ending, len(ix.Packed))
		}
	}
}

// A packed weight that contradicts the tensors is refused before anything is
// read by it.
func TestPackedInvalid(t *testing.T) {
	f := newPackedFolder(6)
	_, ix := open(t, f.write(t, packedFormats["awq"](f)))
	for what, change := range map[string]func(w *checkpoint.Packed){
		"no parts":     func(w *checkpoint.Packed) { w.Parts = nil },
		"no shape":     func(w *checkpoint.Packed) { w.Shape = nil },
		"no elements":  func(w *checkpoint.Packed) { w.Shape = []int64{0, 8} },
		"huge":         func(w *checkpoint.Packed) { w.Shape = []int64{1 << 40, 1 << 40} },
		"part 99":      func(w *checkpoint.Packed) { w.Parts = []int{w.Parts[0], w.Parts[1], 99} },
		"a part twice": func(w *checkpoint.Packed) { w.Parts = []int{w.Parts[0], w.Parts[1], w.Parts[1]} },
		"a part less":  func(w *checkpoint.Packed) { w.Parts = w.Parts[:2] },
		"another form": func(w *checkpoint.Packed) { w.Form = "mxfp4" },
		"no form":      func(w *checkpoint.Packed) { w.Form = "" },
		"other sizes":  func(w *checkpoint.Packed) { w.Shape = []int64{w.Shape[0], 2 * w.Shape[1]} },
	} {
		bad := *ix
		bad.Packed = slices.Clone(ix.Packed)
		change(&bad.Packed[0])
		if _, err := shard.Build(&bad, shard.Options{Scheme: "f32"}); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("%s: %v, want an error of class invalid_checkpoint", what, err)
		}
	}
}

// 8-bit floats without scales are numbers; those of a quantized checkpoint are
// not, without theirs.
func TestFloat8(t *testing.T) {
	f := newPackedFolder(7)
	q := make([]byte, 2*hidden)
	for i := range q {
		q[i] = byte(i) &^ 0x80
		if q[i] == 0x7f {
			q[i] = 1
		}
	}
	x := make([]float32, len(q))
	for i := range q {
		x[i] = dtype.F8E4M3ToF32(q[i])
	}
	f.put("model.layers.0.mlp.up_proj.weight", dtype.F8E4M3, q, 2, hidden)
	dir := f.write(t, "null")
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	f.want["model.layers.0.mlp.up_proj.weight"] = x
	same(t, "as f32", all(t, load(t, dir, WithLayout(shard.Layout{TP: 2}), WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
	w, err := load(t, dir).Vars().Tensor("model.layers.0.mlp.up_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := w.Bytes(); err != nil || !bytes.Equal(b, q) {
		t.Errorf("as it is stored: %v", err)
	}
}

// A flipped bit in a weight's scales, which are read beside it, is caught.
func TestPackedFlippedBit(t *testing.T) {
	f := newPackedFolder(8)
	dir := f.write(t, packedFormats["fp8 blocks"](f))
	if err := digests.WriteBeside(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	_, ix := open(t, dir)
	for _, name := range []string{"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale_inv"} {
		file := filepath.Join(dir, "model.safetensors")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		at := find(t, ix, name).Offset
		b[at] ^= 1
		if err := os.WriteFile(file, b, 0o666); err != nil {
			t.Fatal(err)
		}
		_, err = New(WithQuantization(quant.Config{Scheme: "f32"}), WithRecovery(recovery.FailFast())).Load(t.Context(), dir)
		if recovery.ClassOf(err) != recovery.DigestMismatch {
			t.Errorf("%s: %v, want an error of class digest_mismatch", name, err)
		}
		b[at] ^= 1
		if err := os.WriteFile(file, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "restored", all(t, load(t, dir, WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
}

// Levels that are stored under the type of what they become are decoded like
// others: they are no originals, and keeping those keeps nothing of them.
func TestFloatStorage(t *testing.T) {
	f := newPackedFolder(9)
	dir := f.write(t, nf4(f, false, dtype.F32))
	m := load(t, dir, WithQuantization(quant.Config{Scheme: "f32"}), WithKeepOriginal(true))
	same(t, "as f32", all(t, m), f.want)
	w, err := m.Vars().Tensor("model.layers.0.mlp.up_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := w.Original(); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("%d original bytes, %v", len(b), err)
	}
}

// A model with weights that are not decoded is not exported with others that
// are quantized anew: no config.json says both.
func TestUndecodedExport(t *testing.T) {
	f := newPackedFolder(10)
	f.put("model.layers.0.mlp.up_proj.W_q", dtype.U8, make([]byte, 64*hidden), 64, hidden)
	f.f32("model.layers.0.mlp.up_proj.scale", f.floats(64*hidden, 1), 64, hidden)
	f.f32("model.layers.0.mlp.down_proj.weight", f.floats(hidden*hidden, 1), hidden, hidden)
	dir := f.write(t, `{"quant_method":"hqq"}`)
	out := filepath.Join(t.TempDir(), "out")
	if err := load(t, dir, WithQuantization(quant.Config{Scheme: "int8"})).Export(t.Context(), out); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("int8: %v, want an error of class unsupported", err)
	}
	if err := load(t, dir, WithQuantization(quant.Config{Scheme: "f16"})).Export(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	m := load(t, out)
	for _, name := range []string{"model.layers.0.mlp.up_proj.W_q", "model.layers.0.mlp.up_proj.scale"} {
		w, err := m.Vars().Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := w.Bytes(); err != nil || !bytes.Equal(b, f.data[name]) {
			t.Errorf("%s is not what was stored: %v", name, err)
		}
	}
	if q := m.Metadata().About.Quantization; q == nil || q.Method != "hqq" {
		t.Errorf("the export says %+v", q)
	}
}
