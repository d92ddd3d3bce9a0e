package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// familyFolders are small models: config.json, then tensors and their shapes,
// with a "#" for each of four experts.
var familyFolders = map[string]string{
	"mixtral": `{"model_type":"mixtral","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":4}
model.embed_tokens.weight 70 64
model.layers.0.self_attn.q_proj.weight 64 64
model.layers.0.self_attn.k_proj.weight 32 64
model.layers.0.self_attn.o_proj.weight 64 64
model.layers.0.block_sparse_moe.gate.weight 4 64
model.layers.0.block_sparse_moe.experts.#.w1.weight 96 64
model.layers.0.block_sparse_moe.experts.#.w2.weight 64 96
model.layers.0.block_sparse_moe.experts.#.w3.weight 96 64
lm_head.weight 70 64`,
	"stacked": `{"model_type":"novel","base_model_tp_plan":{"layers.*.mlp.experts.gate_up_proj":"packed_colwise","layers.*.mlp.experts.down_proj":"rowwise"}}
model.embed_tokens.weight 70 64
model.layers.0.mlp.experts.gate_up_proj 4 192 64
model.layers.0.mlp.experts.down_proj 4 64 96`,
	"phi3": `{"model_type":"phi3","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2}
model.embed_tokens.weight 70 64
model.layers.0.self_attn.qkv_proj.weight 128 64
model.layers.0.self_attn.o_proj.weight 64 64
model.layers.0.mlp.gate_up_proj.weight 192 64
model.layers.0.mlp.down_proj.weight 64 96
lm_head.weight 70 64`,
	"gpt2": `{"model_type":"gpt2","n_embd":64,"n_head":4,"n_layer":1}
wte.weight 70 64
wpe.weight 32 64
h.0.attn.c_attn.weight 64 192
h.0.attn.c_attn.bias 192
h.0.attn.c_proj.weight 64 64
h.0.mlp.c_fc.weight 64 256
h.0.mlp.c_proj.weight 256 64
ln_f.weight 64`,
	"bert": `{"model_type":"bert","hidden_size":64,"num_attention_heads":4}
bert.embeddings.word_embeddings.weight 70 64
bert.encoder.layer.0.attention.self.query.weight 64 64
bert.encoder.layer.0.attention.output.dense.weight 64 64
bert.encoder.layer.0.intermediate.dense.weight 128 64
bert.encoder.layer.0.output.dense.weight 64 128`,
}

// familyFolder writes one of familyFolders: F32 weights, of which the first
// value of each tensor is NaN, the last one infinite.
func familyFolder(t testing.TB, family string) string {
	t.Helper()
	config, list, _ := strings.Cut(familyFolders[family], "\n")
	dir := t.TempDir()
	var tensors []safetensors.Tensor
	for _, line := range strings.Split(list, "\n") {
		experts := 1
		if strings.Contains(line, "#") {
			experts = 4
		}
		for e := range experts {
			words := strings.Fields(strings.Replace(line, "#", fmt.Sprint(e), 1))
			x := safetensors.Tensor{Name: words[0], DType: dtype.F32}
			for _, w := range words[1:] {
				var n int64
				if _, err := fmt.Sscan(w, &n); err != nil {
					t.Fatal(err)
				}
				x.Shape = append(x.Shape, n)
			}
			tensors = append(tensors, x)
		}
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), tensors, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i, x := range tensors {
		n := int64(1)
		for _, d := range x.Shape {
			n *= d
		}
		var b []byte
		for j := range n {
			v := float32(r.NormFloat64())
			switch j {
			case 0:
				v = float32(math.NaN())
			case n - 1:
				v = float32(math.Inf(1))
			}
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		if err := w.WriteTensor(i, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFamilyLayouts: real loads of every family in every kind of layout, by
// nodes that send each other pieces, give the same bytes, and count the same
// values that are not finite, each once however many ranks hold it.
func TestFamilyLayouts(t *testing.T) {
	layouts := []shard.Layout{{}, {TP: 2}, {TP: 4, DP: 2}, {EP: 2}, {EP: 4, TP: 2}, {EP: 2, TP: 4, DP: 2}}
	for family := range familyFolders {
		dir := familyFolder(t, family)
		_, ix := open(t, dir)
		for _, scheme := range []string{"none", "f16", "int8", "q8_0", "q4_0"} {
			var first [][][]byte
			var count [2]dtype.NonFinite
			for i, l := range layouts {
				if moe := family == "mixtral" || family == "stacked"; l.EP > 1 && !moe {
					continue
				}
				what := fmt.Sprintf("%s as %s, %s", family, scheme, l)
				plan := build(t, ix, shard.Options{Layout: l, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
				if plan.ReadBytes != plan.StoredBytes {
					t.Errorf("%s: reads %d of %d", what, plan.ReadBytes, plan.StoredBytes)
				}
				m := newTeam(t, dir, plan, 3, NodeOptions{Staging: 2 << 20})
				var stored, placed dtype.NonFinite
				for r, s := range m.load(t.Context()) {
					if !s.Validation.Ran && s.Validation.Reason == "" {
						t.Errorf("%s, rank %d: %+v", what, r, s.Validation)
					}
					stored, placed = stored.Plus(s.Validation.Stored.Once), placed.Plus(s.Validation.Placed.Once)
				}
				if i == 0 {
					count = [2]dtype.NonFinite{stored, placed}
				}
				if n := int64(len(ix.Tensors)); stored != (dtype.NonFinite{NaN: n, Inf: n}) || count != [2]dtype.NonFinite{stored, placed} {
					t.Errorf("%s: stored %+v, placed %+v, want %+v", what, stored, placed, count)
				}
				for i := range plan.Tensors {
					joined := m.joined(i)
					if len(first) == i {
						first = append(first, joined)
					}
					for j := range joined {
						if !bytes.Equal(joined[j], first[i][j]) {
							t.Errorf("%s: %s differs", what, plan.Tensors[i].Name)
						}
					}
				}
			}
		}
	}
}

// TestPackedFused: fused projections that a quantizer packed are decoded
// exactly, part by part, whatever the layout, and stay as they are under none.
func TestPackedFused(t *testing.T) {
	for name, format := range packedFormats {
		f := newPackedFolder(4)
		f.model, f.weights = "phi3", map[string][2]int{"model.layers.0.self_attn.qkv_proj": {2 * hidden, hidden}, "model.layers.0.mlp.gate_up_proj": {2 * intermediate, hidden}}
		dir := f.write(t, format(f))
		for _, l := range []shard.Layout{{TP: 2}, {TP: 4}, {TP: 8}} {
			same(t, name+" as f32, "+l.String(), all(t, load(t, dir, WithLayout(l), WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
			m := load(t, dir, WithLayout(l))
			for _, n := range f.names {
				w, err := m.Vars().Tensor(n)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := w.Bytes(); err != nil || !bytes.Equal(b, f.data[n]) {
					t.Errorf("%s, %s: %s is not what is stored: %v", name, l, n, err)
				}
			}
		}
	}
}

// TestPaddedVocabulary: the rows that fill a vocabulary up are zeros, in every
// scheme's encoding and under any name of the tensor; joining leaves them out.
func TestPaddedVocabulary(t *testing.T) {
	dir := familyFolder(t, "phi3")
	_, ix := open(t, dir)
	for _, scheme := range []string{"none", "q4_K_M", "q8_0"} {
		plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: scheme, PadVocab: 64})
		m := newTeam(t, dir, plan, 2, NodeOptions{Staging: 2 << 20})
		m.load(t.Context())
		padded := 0
		for r := range plan.Ranks {
			for _, s := range plan.Ranks[r].Slices {
				if s.Pad == 0 {
					continue
				}
				padded++
				if n := s.Rows.Len() + s.Pad; n != 32 { // 70 rows become 128
					t.Errorf("%s: rank %d has %d rows of %s", scheme, r, n, plan.Tensors[s.Tensor].Name)
				}
				for _, at := range s.Planes {
					b := make([]byte, s.Pad*at.RowBytes)
					if err := m.read(r, b, at.Offset+s.Rows.Len()*at.RowBytes); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(b, make([]byte, len(b))) {
						t.Errorf("%s: rank %d: %s is not filled up with zeros", scheme, r, plan.Tensors[s.Tensor].Name)
					}
				}
			}
		}
		if padded != 4 { // the third and fourth rank, of embedding and head
			t.Errorf("%s: %d slices are padded", scheme, padded)
		}
		plain := build(t, ix, shard.Options{Scheme: scheme})
		alone := newTeam(t, dir, plain, 1, NodeOptions{Staging: 2 << 20})
		alone.load(t.Context())
		for i := range plan.Tensors {
			for j, b := range alone.joined(i) {
				if !bytes.Equal(b, m.joined(i)[j]) {
					t.Errorf("%s: %s differs", scheme, plan.Tensors[i].Name)
				}
			}
		}
	}
}
