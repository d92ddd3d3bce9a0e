package testmodels

import (
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
)

// families are models of one layer: config.json, then tensors and their
// shapes, with a "#" for each of four experts. All have 4 heads of 16, hidden
// size 64 and 70 tokens; 2 key-value heads where they are fewer.
var families = map[string]string{
	"mixtral": `{"model_type":"mixtral","hidden_size":64,"intermediate_size":96,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":4,"num_experts_per_tok":2,"max_position_embeddings":64,"rms_norm_eps":1e-5,"vocab_size":70}
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

// Families lists the models that there are, and whether they have experts.
func Families() map[string]bool {
	m := map[string]bool{}
	for name, text := range families {
		m[name] = strings.Contains(text, "experts.")
	}
	return m
}

// Write writes a model's folder: F32 weights, of which, where they are to be
// spoiled, the first value of each tensor is NaN and the last infinite.
func Write(t testing.TB, family string, spoil bool) (dir string) {
	t.Helper()
	config, list, _ := strings.Cut(families[family], "\n")
	dir = t.TempDir()
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
		if err := w.WriteTensor(i, values(r, x.Shape, spoil), 0); err != nil {
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

// values makes a tensor's bytes up.
func values(r *rand.Rand, shape []int64, spoil bool) (b []byte) {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	for j := range n {
		v := r.NormFloat64()
		switch {
		case spoil && j == 0:
			v = math.NaN()
		case spoil && j == n-1:
			v = math.Inf(1)
		}
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
	}
	return b
}
