package shard_test

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// llamaModel is a model that libllama's quantizer was given.
type llamaModel struct {
	arch                       string
	layers, heads, kv, experts int64
	tied                       bool
	down, cols                 int64 // elements of a row of down projections, of the others
	line                       string
	types                      map[string][]string // "q4_K_M attn_v" → by layer
}

// readLlama reads testdata/recipes/llama.txt, which gen.py wrote.
func readLlama(t *testing.T) (models []*llamaModel) {
	f, err := os.Open("testdata/recipes/llama.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		switch {
		case len(words) == 0 || words[0] == "#":
		case words[0] == "model":
			m := &llamaModel{line: s.Text(), types: map[string][]string{}}
			if _, err := fmt.Sscanf(s.Text(), "model arch=%s layers=%d heads=%d kv=%d experts=%d tied=%t down=%d cols=%d",
				&m.arch, &m.layers, &m.heads, &m.kv, &m.experts, &m.tied, &m.down, &m.cols); err != nil {
				t.Fatalf("%s: %v", s.Text(), err)
			}
			models = append(models, m)
		default:
			m := models[len(models)-1]
			key := words[0] + " " + words[1]
			for _, run := range words[2:] {
				name, count, _ := strings.Cut(run, "*")
				var n int
				if _, err := fmt.Sscan(count, &n); err != nil {
					t.Fatalf("%s: %v", s.Text(), err)
				}
				m.types[key] = append(m.types[key], slices.Repeat([]string{name}, n)...)
			}
		}
	}
	return models
}

// gguf returns a model with the names that GGUF has where Gantry knows no
// others, the matrices of all experts of a layer in one tensor, and what it
// calls each of them.
func (m *llamaModel) gguf() (s *stored, ggml map[string]string) {
	s, ggml = &stored{ix: &checkpoint.Index{Format: "gguf"}}, map[string]string{}
	s.ix.Architecture = checkpoint.Architecture{Name: m.arch, Layers: m.layers, Heads: m.heads, KVHeads: m.kv}
	if m.experts > 0 {
		s.ix.Architecture.Name = ""
	}
	add := func(prefix, kind string, shape ...int64) {
		s.add(0, 0, prefix+kind+".weight", dtype.F32, shape...)
		ggml[prefix+kind+".weight"] = kind
	}
	if !m.tied {
		add("", "output", 2, m.cols)
	}
	add("", "output_norm", m.cols)
	add("", "token_embd", 2, m.cols)
	for l := range m.layers {
		p := fmt.Sprintf("blk.%d.", l)
		for _, kind := range []string{"attn_k", "attn_output", "attn_q", "attn_v"} {
			add(p, kind, 2, m.cols)
		}
		add(p, "attn_norm", m.cols)
		if m.experts > 0 {
			add(p, "ffn_gate_inp", m.experts, m.cols)
			add(p, "ffn_gate_exps", m.experts, 2, m.cols)
			add(p, "ffn_up_exps", m.experts, 2, m.cols)
			add(p, "ffn_down_exps", m.experts, 2, m.down)
			continue
		}
		add(p, "ffn_gate", 2, m.cols)
		add(p, "ffn_up", 2, m.cols)
		add(p, "ffn_down", 2, m.down)
	}
	return s, ggml
}

// checkpoint returns the model as Hugging Face stores it, and what GGUF calls
// each of its matrices.
func (m *llamaModel) checkpoint() (s *stored, ggml map[string]string) {
	s, ggml = &stored{ix: &checkpoint.Index{Format: "safetensors"}}, map[string]string{}
	if m.experts == 0 { // those with experts have names and shapes only
		s.ix.Architecture = checkpoint.Architecture{Name: m.arch, Heads: m.heads, KVHeads: m.kv}
	}
	add := func(kind, name string, shape ...int64) {
		s.add(0, 0, name, dtype.BF16, shape...)
		ggml[name] = kind
	}
	add("token_embd", "model.embed_tokens.weight", 2, m.cols)
	for l := range m.layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add("attn_norm", p+"input_layernorm.weight", m.cols)
		add("attn_q", p+"self_attn.q_proj.weight", 8*m.heads, m.cols)
		add("attn_k", p+"self_attn.k_proj.weight", 8*m.kv, m.cols)
		add("attn_v", p+"self_attn.v_proj.weight", 8*m.kv, m.cols)
		add("attn_output", p+"self_attn.o_proj.weight", 2, m.cols)
		if m.experts == 0 {
			add("ffn_gate", p+"mlp.gate_proj.weight", 2, m.cols)
			add("ffn_up", p+"mlp.up_proj.weight", 2, m.cols)
			add("ffn_down", p+"mlp.down_proj.weight", 2, m.down)
			continue
		}
		names := []string{"mlp.gate.weight", "mlp.experts.%d.gate_proj.weight", "mlp.experts.%d.up_proj.weight", "mlp.experts.%d.down_proj.weight"}
		if m.experts == 8 {
			names = []string{"block_sparse_moe.gate.weight", "block_sparse_moe.experts.%d.w1.weight", "block_sparse_moe.experts.%d.w3.weight", "block_sparse_moe.experts.%d.w2.weight"}
		}
		add("ffn_gate_inp", p+names[0], m.experts, m.cols)
		for e := range m.experts {
			add("ffn_gate_exps", p+fmt.Sprintf(names[1], e), 2, m.cols)
			add("ffn_up_exps", p+fmt.Sprintf(names[2], e), 2, m.cols)
			add("ffn_down_exps", p+fmt.Sprintf(names[3], e), 2, m.down)
		}
	}
	add("output_norm", "model.norm.weight", m.cols)
	if !m.tied {
		add("output", "lm_head.weight", 2, m.cols)
	}
	return s, ggml
}

// TestRecipes holds that a recipe gives every tensor the type that llama.cpp's
// own quantizer gives it: 20 models of 1 to 80 layers, 0 to 128 experts, rows
// that divide into blocks and rows that do not.
func TestRecipes(t *testing.T) {
	models := readLlama(t)
	if len(models) != 20 {
		t.Fatalf("%d models, want 20", len(models))
	}
	for _, m := range models {
		s, ggml := m.checkpoint()
		m.check(t, s, ggml)
		s, ggml = m.gguf()
		m.check(t, s, ggml)
	}
}

// check plans a model with every recipe and compares what its tensors become.
func (m *llamaModel) check(t *testing.T, s *stored, ggml map[string]string) {
	for _, recipe := range quant.Recipes() {
		p, err := shard.Build(s.ix, shard.Options{Scheme: recipe})
		if err != nil {
			t.Fatalf("%s: %v", m.line, err)
		}
		checked := 0
		for _, tensor := range p.Tensors {
			kind, layer := ggml[tensor.Name], 0
			for _, prefix := range []string{"model.layers.", "blk."} {
				if rest, ok := strings.CutPrefix(tensor.Name, prefix); ok {
					if _, err := fmt.Sscanf(rest, "%d", &layer); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := "f32" // norms, which the file leaves out
			if types := m.types[recipe+" "+kind]; len(types) > 0 {
				want = types[layer]
				checked++
			} else if !strings.HasSuffix(kind, "_norm") {
				t.Fatalf("%s: nothing is known of %s", m.line, kind)
			}
			if tensor.Scheme != want {
				t.Errorf("%s: %s makes %s %s (%s), llama.cpp %s", m.line, recipe, tensor.Name, tensor.Scheme, tensor.Why, want)
			}
		}
		if checked < int(m.layers)*7 {
			t.Errorf("%s: only %d tensors were compared", m.line, checked)
		}
	}
}
