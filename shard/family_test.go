package shard_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// modelDraw draws the checkpoint of a family.
type modelDraw struct {
	t                                               *rapid.T
	s                                               *stored
	heads, kv, head, hidden, inter, vocab, experts_ int64
	types                                           []dtype.Type // of weights
	prefix                                          string       // of the layer at hand
}

// families are the tensors of a layer, and of what is around the layers.
var familyModels = map[string]struct {
	layers        string // what precedes a layer's number
	layer, around func(m *modelDraw)
}{
	"llama":     {"model.layers.", func(m *modelDraw) { m.attention(); m.gated("mlp.", "gate_proj", "up_proj", "down_proj") }, (*modelDraw).decoder},
	"qwen3_moe": {"model.layers.", func(m *modelDraw) { m.attention(); m.experts("mlp.", "gate_proj", "up_proj", "down_proj") }, (*modelDraw).decoder},
	"mixtral":   {"model.layers.", func(m *modelDraw) { m.attention(); m.experts("block_sparse_moe.", "w1", "w3", "w2") }, (*modelDraw).decoder},
	"deepseek2": {"blk.", (*modelDraw).stacked, (*modelDraw).ggml},
	"phi3": {"model.layers.", func(m *modelDraw) {
		m.weight("self_attn.qkv_proj", (m.heads+2*m.kv)*m.head, m.hidden)
		m.weight("self_attn.o_proj", m.hidden, m.heads*m.head)
		m.weight("mlp.gate_up_proj", 2*m.inter, m.hidden)
		m.weight("mlp.down_proj", m.hidden, m.inter)
	}, (*modelDraw).decoder},
	"phi": {"model.layers.", func(m *modelDraw) {
		m.projections("self_attn.", "q_proj", "k_proj", "v_proj", "dense")
		m.biased("mlp.fc1", m.inter, m.hidden)
		m.biased("mlp.fc2", m.hidden, m.inter)
	}, (*modelDraw).decoder},
	"bert": {"bert.encoder.layer.", func(m *modelDraw) {
		m.kv = m.heads
		m.projections("attention.self.", "query", "key", "value", "../output.dense")
		m.biased("intermediate.dense", m.inter, m.hidden)
		m.biased("output.dense", m.hidden, m.inter)
	}, func(m *modelDraw) {
		m.add("bert.embeddings.word_embeddings.weight", m.vocab, m.hidden)
		m.add("bert.embeddings.position_embeddings.weight", 7, m.hidden)
		m.add("cls.predictions.bias", m.vocab)
		m.add("cls.predictions.decoder.weight", m.vocab, m.hidden)
	}},
	"gpt2": {"transformer.h.", func(m *modelDraw) {
		m.kv = m.heads
		for _, x := range []struct {
			name    string
			in, out int64
		}{{"attn.c_attn", m.hidden, 3 * m.heads * m.head}, {"attn.c_proj", m.heads * m.head, m.hidden}, {"mlp.c_fc", m.hidden, m.inter}, {"mlp.c_proj", m.inter, m.hidden}} {
			m.add(m.prefix+x.name+".weight", x.in, x.out)
			m.s.ix.Tensors[len(m.s.ix.Tensors)-1].Transposed = true
			m.add(m.prefix+x.name+".bias", x.out)
		}
	}, func(m *modelDraw) {
		m.add("transformer.wte.weight", m.vocab, m.hidden)
		m.add("transformer.wpe.weight", 5, m.hidden)
		m.add("transformer.ln_f.weight", m.hidden)
	}},
}

func (m *modelDraw) add(name string, shape ...int64) {
	d := dtype.BF16
	if len(shape) > 1 {
		d = rapid.SampledFrom(m.types).Draw(m.t, "dtype")
	}
	if elements, _ := d.Block(); shape[len(shape)-1]%elements != 0 {
		d = dtype.F32
	}
	m.s.add(rapid.IntRange(0, 1).Draw(m.t, "file"), 0, name, d, shape...)
}

// weight adds a linear layer's weight, as it is or as a quantizer packs it.
func (m *modelDraw) weight(name string, out, in int64) {
	base, ix := m.prefix+name, m.s.ix
	first := len(ix.Tensors)
	packed := func(f string, parts int) {
		p := checkpoint.Packed{Name: base + ".weight", Shape: []int64{out, in}, Form: f}
		for i := range parts {
			p.Parts = append(p.Parts, first+i)
		}
		ix.Packed = append(ix.Packed, p)
	}
	switch kind := rapid.SampledFrom([]string{"plain", "plain", "awq", "gptq", "int8", "fp8"}).Draw(m.t, "packing"); {
	case kind == "awq" && out%8 == 0 && in%16 == 0:
		m.s.add(0, 0, base+".qweight", dtype.I32, in, out/8)
		m.s.add(0, 0, base+".qzeros", dtype.I32, in/16, out/8)
		m.s.add(1, 0, base+".scales", dtype.F16, in/16, out)
		packed(form.Columns{AWQ: true, Bits: 4, Group: 16, Scale: dtype.F16}.Name(), 3)
	case kind == "gptq" && out%8 == 0 && in%16 == 0:
		m.s.add(0, 0, base+".qweight", dtype.I32, in/8, out)
		m.s.add(0, 0, base+".qzeros", dtype.I32, in/16, out/8)
		m.s.add(0, 0, base+".scales", dtype.F16, in/16, out)
		packed(form.Columns{Bits: 4, Group: 16, Scale: dtype.F16, Plus: 1}.Name(), 3)
	case kind == "int8":
		m.s.add(0, 0, base+".weight", dtype.I8, out, in)
		m.s.add(1, 0, base+".weight_scale", dtype.F32, out, 1)
		packed(form.Scaled{Scale: dtype.F32, Rows: 1}.Name(), 2)
	case kind == "fp8":
		m.s.add(0, 0, base+".weight", dtype.F8E4M3, out, in)
		m.s.add(0, 0, base+".weight_scale_inv", dtype.F32, (out+15)/16, (in+15)/16)
		packed(form.Scaled{Scale: dtype.F32, Rows: 16, Cols: 16}.Name(), 2)
	default:
		m.add(base+".weight", out, in)
	}
}

func (m *modelDraw) biased(name string, out, in int64) {
	m.weight(name, out, in)
	m.add(m.prefix+name+".bias", out)
}

func (m *modelDraw) projections(before, q, k, v, o string) {
	m.biased(before+q, m.heads*m.head, m.hidden)
	m.biased(before+k, m.kv*m.head, m.hidden)
	m.biased(before+v, m.kv*m.head, m.hidden)
	if o == "../output.dense" {
		before, o = "attention.output.", "dense"
	}
	m.biased(before+o, m.hidden, m.heads*m.head)
}

func (m *modelDraw) attention() { m.projections("self_attn.", "q_proj", "k_proj", "v_proj", "o_proj") }

func (m *modelDraw) gated(before, gate, up, down string) {
	m.weight(before+gate, m.inter, m.hidden)
	m.weight(before+up, m.inter, m.hidden)
	m.weight(before+down, m.hidden, m.inter)
}

func (m *modelDraw) experts(before, gate, up, down string) {
	m.add(m.prefix+before+"gate.weight", m.experts_, m.hidden)
	for e := range m.experts_ {
		m.gated(fmt.Sprintf("%sexperts.%d.", before, e), gate, up, down)
	}
}

func (m *modelDraw) stacked() {
	m.add(m.prefix+"ffn_gate_inp.weight", m.experts_, m.hidden)
	m.add(m.prefix+"ffn_gate_exps.weight", m.experts_, m.inter, m.hidden)
	m.add(m.prefix+"ffn_up_exps.bias", m.experts_, m.inter)
	m.add(m.prefix+"ffn_down_exps.weight", m.experts_, m.hidden, m.inter)
}

func (m *modelDraw) decoder() {
	m.add("model.embed_tokens.weight", m.vocab, m.hidden)
	m.add("model.norm.weight", m.hidden)
	if rapid.Bool().Draw(m.t, "head") {
		m.add("lm_head.weight", m.vocab, m.hidden)
	}
}

func (m *modelDraw) ggml() {
	m.add("token_embd.weight", m.vocab, m.hidden)
	m.add("output.weight", m.vocab, m.hidden)
}

// drawModel draws a checkpoint of the family.
func drawModel(t *rapid.T, family string) *stored {
	kv := rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "kv")
	m := &modelDraw{t: t, s: &stored{ix: &checkpoint.Index{Format: "safetensors"}}, kv: kv, heads: kv * rapid.SampledFrom([]int64{1, 2, 4, 4, 3}).Draw(t, "group"),
		head: rapid.SampledFrom([]int64{2, 8, 16}).Draw(t, "head"), hidden: rapid.SampledFrom([]int64{16, 64, 96}).Draw(t, "hidden"),
		inter: 4 * rapid.Int64Range(1, 40).Draw(t, "inter"), vocab: rapid.Int64Range(1, 70).Draw(t, "vocab"),
		experts_: rapid.SampledFrom([]int64{1, 2, 4, 6, 6}).Draw(t, "experts"), types: []dtype.Type{dtype.BF16, dtype.BF16, dtype.F32}}
	if family == "deepseek2" || family == "llama" {
		m.types = append(m.types, dtype.Q8_0, dtype.Q4_0)
	}
	f := familyModels[family]
	f.around(m)
	for l := range rapid.IntRange(1, 3).Draw(t, "layers") {
		m.prefix = fmt.Sprintf("%s%d.", f.layers, l)
		f.layer(m)
	}
	m.s.ix.Architecture = checkpoint.Architecture{Name: family, Heads: m.heads, KVHeads: m.kv, TiedEmbeddings: rapid.Bool().Draw(t, "tied")}
	return m.s
}

// TestFamilyLoad is TestLoad for every family, with experts, fused, packed and
// stacked weights, and padded vocabularies.
func TestFamilyLoad(t *testing.T) {
	for family := range familyModels {
		t.Run(family, func(t *testing.T) {
			var done, refused int
			eps := []int{1, 1, 1, 1, 1, 2} // others have no experts
			if slices.Contains([]string{"qwen3_moe", "mixtral", "deepseek2"}, family) {
				eps = []int{1, 2, 2, 3}
			}
			rapid.Check(t, func(r *rapid.T) {
				s := drawModel(r, family)
				o := shard.Options{ChunkBytes: rapid.Int64Range(shard.MinChunkBytes, 2*shard.MinChunkBytes).Draw(r, "chunk"),
					Layout: shard.Layout{TP: rapid.SampledFrom([]int{1, 2, 2, 4, 4, 3, 8}).Draw(r, "tp"), PP: rapid.IntRange(1, 2).Draw(r, "pp"),
						EP: rapid.SampledFrom(eps).Draw(r, "ep"), DP: rapid.IntRange(1, 2).Draw(r, "dp")},
					PadVocab: rapid.SampledFrom([]int64{0, 8, 64}).Draw(r, "pad"),
					Scheme:   "none", Rules: drawRules(r)}
				if len(s.ix.Packed) == 0 { // the others are decoded by loader, and its tests
					o.Scheme = rapid.SampledFrom(slices.Concat(quant.Names(), quant.Recipes())).Draw(r, "scheme")
				}
				if slices.ContainsFunc(s.ix.Tensors, func(t checkpoint.Tensor) bool { return t.DType.Quantized() }) {
					o.Scheme = "none"
				}
				p, err := shard.Build(s.ix, o)
				if err != nil {
					if recovery.ClassOf(err) != recovery.Usage || o.Layout.TP*o.Layout.PP*o.Layout.EP < 2 {
						r.Fatalf("%+v: %v", o, err)
					}
					refused++
					return
				}
				done++
				s.fill(rapid.Uint64().Draw(r, "seed"))
				checkJoin(t, r, s, p, load(t, r, s, p), rapid.Int64Range(1, 50).Draw(r, "rows"))
				checkJSON(r, s, o, p)
				checkExperts(r, p)
				checkRules(r, s, p)
			})
			if done < (done+refused)/5 {
				t.Errorf("only %d of %d plans were not refused", done, done+refused)
			}
		})
	}
}

// drawRules draws rules that sweep over tensors that they are not for.
func drawRules(t *rapid.T) []shard.ModuleRule {
	if rapid.IntRange(0, 2).Draw(t, "ruled") > 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) shard.ModuleRule {
		return shard.ModuleRule{
			Pattern: rapid.SampledFrom([]string{"*", "*.0.*", "*.weight", "*.bias", "*proj*", "*experts*", "*embed*", "*dense*"}).Draw(t, "pattern"),
			Rule:    rapid.SampledFrom(shard.ModuleRules()).Draw(t, "rule"),
			Place:   rapid.SampledFrom([]string{"", "", "embedding", "norm", "head"}).Draw(t, "place"),
		}
	}), 1, 3).Draw(t, "rules")
}

// checkRules checks that rules change where tensors lie, and not what they
// become.
func checkRules(f fataler, s *stored, p *shard.Plan) {
	plain, err := shard.Build(s.ix, shard.Options{Scheme: p.Options.Scheme, ChunkBytes: p.Options.ChunkBytes})
	if err != nil {
		f.Fatalf("%v", err)
	}
	become := map[string]string{}
	for _, t := range plain.Tensors {
		become[t.Name] = t.Scheme + t.Why
	}
	for _, t := range p.Tensors {
		if become[t.Name] != t.Scheme+t.Why {
			f.Fatalf("%s becomes %s (%s), without rules %s", t.Name, t.Scheme, t.Why, become[t.Name])
		}
	}
}

// checkExperts checks that ranks of an ep group hold the same, but for experts,
// and of those different ones.
func checkExperts(f fataler, p *shard.Plan) {
	for i := range p.Tensors {
		held := map[int]int64{} // elements by ep, of tp 0 and the first copy
		for r := range p.Ranks {
			if x := &p.Ranks[r]; x.DP == 0 && x.TP == 0 {
				for _, s := range x.SlicesOf(i) {
					held[x.EP] += s.Rows.Len() * s.Cols.Len()
				}
			}
		}
		x, ep := &p.Tensors[i], int64(p.Options.Layout.EP)
		if shard.IsOfExpert(x.Name) && len(held) > 1 || x.Experts > 0 && held[0] > x.Rows*x.Cols/ep {
			f.Fatalf("%s is held by ep %v", x.Name, held)
		}
	}
}
