package shard_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// tuned are schemes with parameters other than their defaults.
var tuned = []string{"custom:bits=3,symmetric=false,group=32", "custom:bits=4,group=16", "custom:bits=6,group=0",
	"ort_nbits4:symmetric=false", "ort_nbits8:block=16,symmetric=false", "fp8_e5m2:scale=tensor"}

// drawStored draws a small checkpoint of the Llama family with oddities.
func drawStored(t *rapid.T) *stored {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors"}}
	floats := rapid.SampledFrom([]dtype.Type{dtype.F32, dtype.BF16, dtype.F16})
	d := floats.Draw(t, "dtype")
	files := rapid.IntRange(1, 3).Draw(t, "files")
	add := func(name string, d dtype.Type, shape ...int64) {
		s.add(rapid.IntRange(0, files-1).Draw(t, "file"), rapid.SampledFrom([]int64{0, 0, 0, 8}).Draw(t, "gap"), name, d, shape...)
	}
	// A linear layer's weight is stored [out, in] or, as ONNX has it, [in, out].
	weight := func(name string, d dtype.Type, out, in int64) {
		if !rapid.Bool().Draw(t, "transposed") {
			add(name, d, out, in)
			return
		}
		add(name, d, in, out)
		s.ix.Tensors[len(s.ix.Tensors)-1].Transposed = true
	}
	kv := rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "kv")
	a := &s.ix.Architecture
	*a = checkpoint.Architecture{Name: "llama", Heads: kv * rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "group"), KVHeads: kv}
	dim := rapid.SampledFrom([]int64{1, 2, 6, 8, 16}).Draw(t, "head dim")
	hidden := rapid.SampledFrom([]int64{8, 32, 64, 96, 256}).Draw(t, "hidden")
	inter := 4 * rapid.Int64Range(1, 60).Draw(t, "intermediate")
	vocab := rapid.Int64Range(1, 70).Draw(t, "vocab")
	a.TiedEmbeddings = rapid.Bool().Draw(t, "tied")
	add("model.embed_tokens.weight", d, vocab, hidden)
	layers := rapid.IntRange(0, 4).Draw(t, "layers")
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", d, hidden)
		weight(p+"self_attn.q_proj.weight", d, a.Heads*dim, hidden)
		add(p+"self_attn.q_proj.bias", d, a.Heads*dim)
		weight(p+"self_attn.k_proj.weight", d, kv*dim, hidden)
		weight(p+"self_attn.v_proj.weight", d, kv*dim, hidden)
		add(p+"self_attn.v_proj.bias", floats.Draw(t, "bias"), kv*dim)
		weight(p+"self_attn.o_proj.weight", d, hidden, a.Heads*dim)
		weight(p+"mlp.gate_proj.weight", d, inter, hidden)
		weight(p+"mlp.down_proj.weight", rapid.SampledFrom([]dtype.Type{dtype.F32, dtype.BF16, dtype.F4, dtype.F6E2M3, dtype.I8}).Draw(t, "down"), hidden, inter)
		add(p+"mlp.down_proj.bias", d, hidden)
	}
	add("model.norm.weight", d, hidden)
	add("odd.scalar", dtype.I64)
	add("odd.empty", d, 3, 0)
	add("odd.cube", d, 2, 3, 4)
	add("odd.nibbles", dtype.F4, 2, 3)
	add("odd.padded", dtype.I4, 3, 3)
	if rapid.Bool().Draw(t, "long") {
		add("odd.long", d, 2, 40000)
	}
	if rapid.Bool().Draw(t, "head") {
		weight("lm_head.weight", d, vocab, hidden)
	}
	return s
}

// drawOverrides draws a few overrides that sweep over tensors of every kind.
func drawOverrides(t *rapid.T) []quant.Override {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) quant.Override {
		return quant.Override{
			Pattern: rapid.SampledFrom([]string{"*", "lm_head", "model.embed_tokens", "*.down_proj.weight", "model.layers.[0-2]", "*norm*", "*.bias", "odd.*"}).Draw(t, "pattern"),
			Scheme:  rapid.SampledFrom(quant.Names()).Draw(t, "override"),
		}
	}), 0, 3).Draw(t, "overrides")
}

// TestLoad is the property the package is there for: whatever the layout, the
// ranks together hold what the whole tensors become, every stored byte is
// read once and every placed byte written once.
func TestLoad(t *testing.T) {
	var done, refused int
	rapid.Check(t, func(r *rapid.T) {
		s := drawStored(r)
		degree := rapid.SampledFrom([]int{0, 1, 2, 3, 4, 8})
		o := shard.Options{ChunkBytes: rapid.Int64Range(shard.MinChunkBytes, 2*shard.MinChunkBytes).Draw(r, "chunk"),
			Layout:       shard.Layout{TP: degree.Draw(r, "tp"), PP: rapid.IntRange(0, 3).Draw(r, "pp"), DP: rapid.IntRange(0, 2).Draw(r, "dp")},
			Scheme:       rapid.SampledFrom(slices.Concat(quant.Names(), tuned, quant.Recipes())).Draw(r, "scheme"),
			KeepOriginal: rapid.Bool().Draw(r, "keep"), Overrides: drawOverrides(r)}
		p, err := shard.Build(s.ix, o)
		if err != nil {
			if recovery.ClassOf(err) != recovery.Usage || o.Layout.TP < 2 && o.Layout.PP < 2 {
				r.Fatalf("%+v: %v", o, err)
			}
			refused++
			return
		}
		done++
		s.fill(rapid.Uint64().Draw(r, "seed"))
		checkJoin(t, r, s, p, load(t, r, s, p), rapid.Int64Range(1, 50).Draw(r, "rows"))

		// What a tensor becomes depends on the scheme only.
		single, err := shard.Build(s.ix, shard.Options{Scheme: o.Scheme, ChunkBytes: o.ChunkBytes, KeepOriginal: o.KeepOriginal, Overrides: o.Overrides})
		if err != nil {
			r.Fatalf("%v", err)
		}
		for i := range single.Tensors {
			one, cut := single.Tensors[i], p.Tensors[i]
			if one.Name != cut.Name || one.Scheme != cut.Scheme || one.Why != cut.Why || cut.Why == "" {
				r.Fatalf("%s becomes %s (%s), alone %s (%s)", cut.Name, cut.Scheme, cut.Why, one.Scheme, one.Why)
			}
		}
		checkJSON(r, s, o, p)
	})
	if done < refused/4 {
		t.Errorf("only %d of %d plans were not refused", done, done+refused)
	}
}

// checkJSON checks that a plan is the same each time, and after a round trip.
func checkJSON(f fataler, s *stored, o shard.Options, p *shard.Plan) {
	again, err := shard.Build(s.ix, o)
	if err != nil {
		f.Fatalf("%v", err)
	}
	b, err := p.JSON()
	if err != nil {
		f.Fatalf("%v", err)
	}
	b2, err := again.JSON()
	if err != nil || !bytes.Equal(b, b2) {
		f.Fatalf("the same input gave another plan (%v)", err)
	}
	read, err := shard.ParsePlan(b)
	if err != nil {
		f.Fatalf("%v", err)
	}
	if diff := cmp.Diff(p, read); diff != "" {
		f.Fatalf("round trip changes the plan:\n%s", diff)
	}
	if p.Digest() != read.Digest() {
		f.Fatalf("round trip changes the digest")
	}
}
