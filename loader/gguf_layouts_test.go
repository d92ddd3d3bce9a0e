package loader

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/shard"
)

// ggufFamilies are tensors of a layer as GGUF has them, [out, in], and what
// their Hugging Face names are cut by. A "b" is of Q8_0, others of F32.
var ggufFamilies = map[string]string{
	"llama": `b attn_q 128 64 colwise
b attn_k 64 64 kv_heads
b attn_output 64 128 rowwise
b ffn_down 64 256 rowwise`,
	"qwen3moe": `b attn_q 128 64 colwise
f ffn_gate_inp 4 64 replicated
b ffn_gate_exps 4 128 64 colwise
b ffn_down_exps 4 64 128 rowwise`,
	"gemma2": `b attn_v 64 64 kv_heads
b ffn_up 128 64 colwise
f post_ffw_norm 64 replicated`,
	"phi2": `b attn_q 128 64 colwise
b attn_output 64 128 rowwise
b ffn_up 256 64 colwise
f ffn_up.bias 256 colwise`,
	"phi3": `b attn_qkv 256 64 qkv
b ffn_up 512 64 packed_colwise
b ffn_down 64 256 rowwise`,
	"gpt2": `b attn_qkv 192 64 qkv
f attn_qkv.bias 192 qkv
b attn_output 64 64 rowwise
b ffn_up 256 64 colwise`,
	"bert": `b attn_q 64 64 colwise
b attn_output 64 64 rowwise
b ffn_up 128 64 colwise
b ffn_down 64 128 rowwise`,
	"starcoder2": `b attn_q 128 64 colwise
b ffn_up 128 64 colwise
b ffn_down 64 128 rowwise`,
	"deepseek2": `b ffn_up_exps 4 128 64 colwise
b ffn_down_exps 4 64 128 rowwise
f ffn_down_exps.bias 4 64 replicated`,
}

// ggufFamily writes a file of one of ggufFamilies and returns the rules.
func ggufFamily(t *testing.T, arch string) (path string, rules []string) {
	var f madeGGUF
	f.key("general.architecture", arch)
	heads, kv := uint32(8), uint32(4)
	if arch == "gpt2" || arch == "bert" {
		heads, kv = 4, 4
	}
	f.key(arch+".attention.head_count", heads)
	f.key(arch+".attention.head_count_kv", kv)
	f.key(arch+".block_count", uint32(1))
	if strings.Contains(ggufFamilies[arch], "_exps") {
		f.key(arch+".expert_count", uint32(4))
	}
	r := rand.New(rand.NewPCG(5, 6))
	for _, line := range strings.Split(ggufFamilies[arch], "\n") {
		words := strings.Fields(line)
		var dims []uint64
		n := 1
		for _, w := range words[2 : len(words)-1] {
			var d int
			if _, err := fmt.Sscan(w, &d); err != nil {
				t.Fatal(err)
			}
			dims, n = append([]uint64{uint64(d)}, dims...), n*d
		}
		name := "blk.0." + words[1]
		if !strings.Contains(words[1], ".") {
			name += ".weight"
		}
		rules = append(rules, words[len(words)-1])
		if words[0] == "f" {
			f.add(name, numbers(uint64(n), n), dims...)
			continue
		}
		f.Tensors = append(f.Tensors, gguftest.Tensor(name, 8, uint64(len(f.Data)), dims...))
		for range n / 32 {
			f.Data = append(f.Data, byte(r.Uint32()), 0x2c) // a scale of about 0.06
			for range 32 {
				f.Data = append(f.Data, byte(r.Uint32()))
			}
		}
	}
	path = filepath.Join(t.TempDir(), arch+".gguf")
	f.write(t, path)
	return path, rules
}

// TestGGUFFamilies: files of every family are cut as their Hugging Face
// checkpoints are, blocks and all, and give the same bytes in every layout.
func TestGGUFFamilies(t *testing.T) {
	for arch := range ggufFamilies {
		path, rules := ggufFamily(t, arch)
		_, ix := open(t, path)
		layouts := []shard.Layout{{}, {TP: 2}, {TP: 4}}
		if strings.Contains(ggufFamilies[arch], "_exps") {
			layouts = append(layouts, shard.Layout{EP: 2}, shard.Layout{EP: 4, TP: 2})
		}
		for _, scheme := range []string{"none", "f16", "q4_0"} {
			var first [][][]byte
			for _, l := range layouts {
				plan := build(t, ix, shard.Options{Layout: l, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
				what := fmt.Sprintf("%s as %s, %s", arch, scheme, l)
				if len(plan.Warnings) != min(len(plan.Straddles), 1) || plan.ReadBytes != plan.StoredBytes {
					t.Errorf("%s: reads %d of %d bytes, warnings %q", what, plan.ReadBytes, plan.StoredBytes, plan.Warnings)
				}
				m := newTeam(t, path, plan, 2, NodeOptions{Staging: 2 << 20})
				m.load(t.Context())
				got := map[string]bool{}
				for i := range plan.Tensors {
					x, joined := &plan.Tensors[i], m.joined(i)
					got[string(x.Rule)] = true
					if len(first) == i {
						first = append(first, joined)
					}
					for j := range joined {
						if !bytes.Equal(joined[j], first[i][j]) {
							t.Errorf("%s: %s differs", what, x.Name)
						}
					}
					parts := len(plan.Cover(i))
					if cut := x.Rule != shard.Replicated && l.TP > 1; cut && parts < 2 {
						t.Errorf("%s: %s is not cut", what, x.Name)
					}
				}
				for _, r := range rules {
					if !got[r] {
						t.Errorf("%s: no tensor is cut by %s: %v", what, r, got)
					}
				}
			}
		}
	}
}
