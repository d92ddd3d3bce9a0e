package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

func storiesGGUF(t testing.TB, form string) string {
	return filepath.Join(testdata(t, "stories260K"), "gguf", "stories260K-"+form+".gguf")
}

// A GGUF file says what llama.cpp says with it, as it is and decoded, however
// it is cut.
func TestStoredGGUFSpeaks(t *testing.T) {
	for _, form := range []string{"f32", "f16", "q8_0", "q4_0"} {
		want := expectation(t, "expected_gguf.json", "stories260K-"+form+".gguf")
		for _, scheme := range []string{"none", "f32"} {
			for _, tp := range []int{1, 4} {
				m := load(t, storiesGGUF(t, form), WithLayout(shard.Layout{TP: tp}), WithQuantization(quant.Config{Scheme: scheme}))
				if got, _ := speak(t, m, want.Prompt, len(want.LlamaCPP)); !slices.Equal(got, want.LlamaCPP) {
					t.Errorf("%s as %s, tp %d: %v, want %v", form, scheme, tp, got, want.LlamaCPP)
				}
			}
		}
	}
}

// all returns a model's tensors as F32, by name.
func all(t testing.TB, m *model.Model) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	vars := m.Vars()
	for _, name := range vars.Names() {
		x, err := vars.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if out[name], err = x.Float32(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// The same tensors as in the Hugging Face folder, value for value.
func TestGGUFEqualsHuggingFace(t *testing.T) {
	for _, form := range []string{"f32", "f16"} {
		want := all(t, load(t, filepath.Join(testdata(t, "stories260K"), "hf-"+form)))
		if form == "f16" { // which keeps norms F32
			for name, x := range all(t, load(t, filepath.Join(testdata(t, "stories260K"), "hf-f32"))) {
				if len(x) == 64 {
					want[name] = x
				}
			}
		}
		for _, scheme := range []string{"none", "f32"} {
			for _, tp := range []int{1, 2, 4} {
				m := load(t, storiesGGUF(t, form), WithLayout(shard.Layout{TP: tp}), WithQuantization(quant.Config{Scheme: scheme}))
				same(t, fmt.Sprintf("%s as %s, tp %d", form, scheme, tp), all(t, m), want)
			}
		}
	}
}

// same compares tensors, bit for bit.
func same(t testing.TB, what string, got, want map[string][]float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d tensors, want %d", what, len(got), len(want))
	}
	for name, w := range want {
		if !slices.EqualFunc(got[name], w, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// Every layout on any number of nodes gives the same bytes, each stored byte
// read once.
func TestGGUFTopology(t *testing.T) {
	for _, form := range []string{"f16", "q4_0"} {
		path := storiesGGUF(t, form)
		_, ix := open(t, path)
		for _, scheme := range []string{"none", "f32", "f16", "int8", "q8_0", "q4_0"} {
			var first [][][]byte
			for _, l := range []shard.Layout{{TP: 1}, {TP: 2}, {TP: 4}, {TP: 2, PP: 2}} {
				plan := build(t, ix, shard.Options{Layout: l, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
				if plan.ReadBytes != plan.StoredBytes || len(plan.Warnings) != min(len(plan.Straddles), 1) {
					t.Errorf("%s as %s, %s: reads %d of %d, warnings %q", form, scheme, l, plan.ReadBytes, plan.StoredBytes, plan.Warnings)
				}
				m := newTeam(t, path, plan, 2, NodeOptions{Staging: 2 << 20})
				for r, s := range m.load(t.Context()) {
					if !s.Validation.Ran || s.Validation.Placed != (dtype.Tally{}) {
						t.Errorf("%s as %s, %s, rank %d: %+v", form, scheme, l, r, s.Validation)
					}
				}
				for i := range plan.Tensors {
					joined := m.joined(i)
					if len(first) == i {
						first = append(first, joined)
					}
					if !slices.EqualFunc(joined, first[i], bytes.Equal) {
						t.Errorf("%s as %s, %s: %s differs", form, scheme, l, plan.Tensors[i].Name)
					}
				}
			}
		}
	}
}

// madeGGUF is a GGUF file of F32 tensors for tests.
type madeGGUF struct {
	gguftest.File
}

func (f *madeGGUF) key(key string, value any) { f.Keys = append(f.Keys, gguftest.KV(key, value)) }

// add appends a tensor; dims come as in GGUF, the fastest first.
func (f *madeGGUF) add(name string, values []float32, dims ...uint64) {
	f.Tensors = append(f.Tensors, gguftest.Tensor(name, 0, uint64(len(f.Data)), dims...))
	for _, v := range values {
		f.Data = binary.LittleEndian.AppendUint32(f.Data, math.Float32bits(v))
	}
	for len(f.Data)%32 != 0 {
		f.Data = append(f.Data, 0)
	}
}

func (f *madeGGUF) write(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, f.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

func numbers(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 3))
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32() - 0.5
	}
	return x
}

// A model in several files is one model.
func TestGGUFSplit(t *testing.T) {
	src, ix := open(t, storiesGGUF(t, "f32"))
	r, err := src.Open(t.Context(), ix.Files[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const of = 3
	var parts [of]madeGGUF
	for i := range parts {
		parts[i].key("split.no", uint16(i))
		parts[i].key("split.count", uint16(of))
		parts[i].key("split.tensors.count", int32(len(ix.Tensors)))
	}
	for key, v := range map[string]uint32{
		"block_count": 5, "embedding_length": 64, "feed_forward_length": 172, "context_length": 512,
		"attention.head_count": 8, "attention.head_count_kv": 4,
	} {
		parts[0].key("llama."+key, v)
	}
	parts[0].key("general.architecture", "llama")
	// The original's names, in its order: those of the index are translated.
	names := []string{"token_embd.weight", "output_norm.weight"}
	for l := range 5 {
		for _, n := range []string{"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"} {
			names = append(names, "blk."+strconv.Itoa(l)+"."+n+".weight")
		}
	}
	whole := ggufTensors(t, ix, names)
	for i, name := range names {
		x := whole[name]
		b := make([]byte, x.Bytes)
		if err := r.ReadAt(t.Context(), b, x.Offset); err != nil {
			t.Fatal(err)
		}
		values := make([]float32, len(b)/4)
		quant.Decode(values, b, dtype.F32)
		var dims []uint64
		for _, d := range slices.Backward(x.Shape) {
			dims = append(dims, uint64(d))
		}
		parts[i%of].add(name, values, dims...)
	}
	dir := t.TempDir()
	for i := range parts {
		parts[i].write(t, filepath.Join(dir, fmt.Sprintf("m-%05d-of-%05d.gguf", i+1, of)))
	}
	m := load(t, filepath.Join(dir, "m-00002-of-00003.gguf"), WithLayout(shard.Layout{TP: 2}))
	same(t, "three parts", all(t, m), all(t, load(t, filepath.Join(testdata(t, "stories260K"), "hf-f32"))))
}

// ggufTensors finds the tensors of an index by the names that they have in
// GGUF.
func ggufTensors(t testing.TB, ix *checkpoint.Index, names []string) map[string]checkpoint.Tensor {
	t.Helper()
	found := map[string]checkpoint.Tensor{}
	hf := map[string]string{
		"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
		"attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
	}
	for _, name := range names {
		want := map[string]string{"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
		if want == "" {
			parts := bytes.Split([]byte(name), []byte("."))
			want = fmt.Sprintf("model.layers.%s.%s.weight", parts[1], hf[string(parts[2])])
		}
		found[name] = find(t, ix, want)
	}
	return found
}

// Gemma's norms come without the 1 that its converter adds, and experts each
// by themselves.
func TestGGUFConverted(t *testing.T) {
	gains := []float32{0.25, -0.5, 2, 0.125}
	added := make([]float32, len(gains))
	for i, v := range gains {
		added[i] = v + 1
	}
	var gemma madeGGUF
	gemma.key("general.architecture", "gemma2")
	gemma.add("output_norm.weight", added, 4)
	gemma.add("blk.0.attn_q.weight", numbers(1, 16), 4, 4)
	path := filepath.Join(t.TempDir(), "gemma.gguf")
	gemma.write(t, path)
	for _, scheme := range []string{"none", "f32", "q8_0"} {
		m := load(t, path, WithQuantization(quant.Config{Scheme: scheme}))
		got := all(t, m)
		if !slices.Equal(got["model.norm.weight"], gains) {
			t.Errorf("as %s the gains are %v, want %v", scheme, got["model.norm.weight"], gains)
		}
		if want := numbers(1, 16); scheme != "q8_0" && !slices.Equal(got["model.layers.0.self_attn.q_proj.weight"], want) {
			t.Errorf("as %s the query is %v, want %v", scheme, got["model.layers.0.self_attn.q_proj.weight"], want)
		}
	}

	const experts = 3
	var mixtral madeGGUF
	mixtral.key("general.architecture", "llama")
	mixtral.key("llama.expert_count", uint32(experts))
	values := numbers(2, experts*6)
	mixtral.add("blk.0.ffn_down_exps.weight", values, 3, 2, experts)
	path = filepath.Join(t.TempDir(), "mixtral.gguf")
	mixtral.write(t, path)
	want := map[string][]float32{}
	for i := range experts {
		want[fmt.Sprintf("model.layers.0.block_sparse_moe.experts.%d.w2.weight", i)] = values[6*i : 6*i+6]
	}
	same(t, "experts", all(t, load(t, path)), want)
}
