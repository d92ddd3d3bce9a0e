package names

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		model, gguf, hf string
	}{
		{"llama", "token_embd.weight", "model.embed_tokens.weight"},
		{"llama", "output.weight", "lm_head.weight"},
		{"llama", "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
		{"mistral", "blk.31.ffn_down.weight", "model.layers.31.mlp.down_proj.weight"},
		{"mixtral", "blk.1.ffn_gate_inp.weight", "model.layers.1.block_sparse_moe.gate.weight"},
		{"mixtral", "blk.1.ffn_up_exps.weight", "model.layers.1.block_sparse_moe.experts.*.w3.weight"},
		{"mixtral", "blk.1.ffn_down_exps.weight", "model.layers.1.block_sparse_moe.experts.*.w2.weight"},
		{"qwen2", "blk.2.attn_k.bias", "model.layers.2.self_attn.k_proj.bias"},
		{"qwen3", "blk.2.attn_q_norm.weight", "model.layers.2.self_attn.q_norm.weight"},
		{"qwen2_moe", "blk.2.ffn_gate_exps.weight", "model.layers.2.mlp.experts.*.gate_proj.weight"},
		{"qwen2_moe", "blk.2.ffn_gate_inp_shexp.weight", "model.layers.2.mlp.shared_expert_gate.weight"},
		{"qwen3_moe", "blk.2.ffn_gate_inp.weight", "model.layers.2.mlp.gate.weight"},
		{"gemma", "blk.2.ffn_norm.weight", "model.layers.2.post_attention_layernorm.weight"},
		{"gemma2", "blk.2.ffn_norm.weight", "model.layers.2.pre_feedforward_layernorm.weight"},
		{"gemma2", "blk.2.post_attention_norm.weight", "model.layers.2.post_attention_layernorm.weight"},
		{"gemma3_text", "blk.2.post_ffw_norm.weight", "model.layers.2.post_feedforward_layernorm.weight"},
		{"phi", "output_norm.bias", "model.final_layernorm.bias"},
		{"phi3", "blk.2.attn_qkv.weight", "model.layers.2.self_attn.qkv_proj.weight"},
		{"phi3", "blk.2.ffn_up.weight", "model.layers.2.mlp.gate_up_proj.weight"},
		{"gpt2", "blk.11.attn_qkv.weight", "transformer.h.11.attn.c_attn.weight"},
		{"gpt2", "position_embd.weight", "transformer.wpe.weight"},
		{"bert", "blk.3.layer_output_norm.bias", "bert.encoder.layer.3.output.LayerNorm.bias"},
		{"bert", "token_types.weight", "bert.embeddings.token_type_embeddings.weight"},
	} {
		n := ForModel(c.model)
		if hf, ok := n.HuggingFace(c.gguf); !ok || hf != c.hf {
			t.Errorf("%s: %s is %q, %v; want %q", c.model, c.gguf, hf, ok, c.hf)
		}
		name, expert, ok := n.GGUF(strings.ReplaceAll(c.hf, Expert, "7"))
		if want := -1 + 8*strings.Count(c.hf, Expert); !ok || name != c.gguf || expert != want {
			t.Errorf("%s: %s is %q of expert %d, %v; want %q", c.model, c.hf, name, expert, ok, c.gguf)
		}
	}
}

// TestOtherNames: what the tables do not have is no tensor of theirs.
func TestOtherNames(t *testing.T) {
	n := ForModel("llama")
	for _, name := range []string{"", "rope_freqs.weight", "blk.attn_q.weight", "blk.-1.attn_q.weight", "blk.01.attn_q.weight",
		"blk.0.attn_q.weight.weight", "blk.0.ffn_gate_exps.weight", "blk.99999999999.attn_q.weight", "token_embd.weight.x", "output"} {
		if hf, ok := n.HuggingFace(name); ok {
			t.Errorf("%q became %q", name, hf)
		}
	}
	for _, hf := range []string{"", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.+1.mlp.up_proj.weight", "wte.weight",
		"model.layers.0.mlp.experts.x.up_proj.weight"} {
		if name, _, ok := n.GGUF(hf); ok {
			t.Errorf("%q became %q", hf, name)
		}
	}
	// Checkpoints of GPT-2 and BERT without their heads leave the prefix out.
	if name, _, ok := ForModel("gpt2").GGUF("h.0.attn.c_attn.weight"); !ok || name != "blk.0.attn_qkv.weight" {
		t.Errorf("without its prefix: %q, %v", name, ok)
	}
}

// TestTables: every name of every table goes there and back.
func TestTables(t *testing.T) {
	for _, n := range tables {
		names := slices.Collect(maps.Keys(n.global))
		for part := range n.layer {
			names = append(names, "blk.5."+part)
		}
		for _, name := range names {
			hf, ok := n.HuggingFace(name + ".weight")
			back, expert, ok2 := n.GGUF(strings.ReplaceAll(hf, Expert, "3"))
			if !ok || !ok2 || back != name+".weight" || (expert == 3) != strings.Contains(hf, Expert) {
				t.Errorf("%s: %s became %q and that %q, expert %d", n.model, name, hf, back, expert)
			}
		}
	}
}

func TestForGGUF(t *testing.T) {
	for _, c := range []struct {
		arch    string
		experts int64
		model   string
	}{{"llama", 0, "llama"}, {"llama", 8, "mixtral"}, {"qwen3moe", 128, "qwen3_moe"}, {"gemma3", 0, "gemma3_text"}} {
		if n := ForGGUF(c.arch, c.experts); n == nil || n.Model() != c.model || n.Arch() != c.arch {
			t.Errorf("%s with %d experts: %+v, want %s", c.arch, c.experts, n, c.model)
		}
	}
	if ForGGUF("mamba", 0) != nil || ForModel("") != nil {
		t.Error("a table for what is not known")
	}
}

// TestConverted: what the converter does to tensors besides their names.
func TestConverted(t *testing.T) {
	const q, k = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.bias"
	for _, c := range []struct {
		model, hf  string
		heads      Heads
		shift      float32
		transposed bool
	}{
		{"llama", q, QueryHeads, 0, false},
		{"mistral", k, KeyHeads, 0, false},
		{"llama", "model.layers.0.self_attn.v_proj.weight", NoHeads, 0, false},
		{"qwen2", q, NoHeads, 0, false},
		{"gemma2", q, NoHeads, 0, false},
		{"llama", "model.norm.weight", NoHeads, 0, false},
		{"gemma", "model.norm.weight", NoHeads, 1, false},
		{"gemma3_text", "model.layers.0.self_attn.q_norm.weight", NoHeads, 1, false},
		{"gemma2", "model.layers.0.input_layernorm.weight", NoHeads, 1, false},
		{"gemma2", "model.embed_tokens.weight", NoHeads, 0, false},
		{"gpt2", "transformer.h.0.attn.c_attn.weight", NoHeads, 0, true},
		{"gpt2", "h.0.mlp.c_proj.weight", NoHeads, 0, true},
		{"gpt2", "transformer.h.0.attn.c_attn.bias", NoHeads, 0, false},
		{"gpt2", "transformer.wte.weight", NoHeads, 0, false},
	} {
		n := ForModel(c.model)
		if h, s, tr := n.Interleaved(c.hf), n.Shift(c.hf), n.Transposed(c.hf); h != c.heads || s != c.shift || tr != c.transposed {
			t.Errorf("%s %s: heads %d, shift %g, transposed %v", c.model, c.hf, h, s, tr)
		}
	}
}

// TestRows holds the order against the converter's reshape to [heads, 2,
// head/2], swapaxes(1, 2).
func TestRows(t *testing.T) {
	want := []int64{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11} // two heads of six rows, by GGUF row
	for row, from := range want {
		if got := FromGGUF(int64(row), 6); got != from {
			t.Errorf("GGUF row %d holds row %d, want %d", row, got, from)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		head := 2 * rapid.Int64Range(1, 300).Draw(t, "half")
		row := rapid.Int64Range(0, 1<<40).Draw(t, "row")
		if there := ToGGUF(row, head); there/head != row/head || FromGGUF(there, head) != row {
			t.Fatalf("row %d of heads of %d goes to %d and back to %d", row, head, there, FromGGUF(there, head))
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("blk.0.attn_q.weight")
	f.Add("model.layers.3.mlp.experts.2.up_proj.weight")
	f.Fuzz(func(t *testing.T, name string) {
		for _, n := range tables {
			if hf, ok := n.HuggingFace(name); ok {
				if back, _, ok := n.GGUF(strings.Replace(hf, Expert, "0", 1)); !ok || back != name {
					t.Errorf("%s: %q became %q and that %q", n.model, name, hf, back)
				}
			}
			if there, expert, ok := n.GGUF(name); ok {
				hf, ok := n.HuggingFace(there)
				hf = strings.Replace(hf, Expert, strconv.Itoa(expert), 1)
				if !ok || hf != name && hf != n.prefix+name {
					t.Errorf("%s: %q became %q and that %q", n.model, name, there, hf)
				}
			}
		}
	})
}
