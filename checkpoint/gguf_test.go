package checkpoint_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// TestStoriesGGUF: each GGUF form of the real model tells the same as its
// safetensors, names and shapes too.
func TestStoriesGGUF(t *testing.T) {
	want, err := open(t, filepath.Join(testdata(t), "stories260K", "hf-f32"))
	if err != nil {
		t.Fatal(err)
	}
	shapes := func(ix *checkpoint.Index) map[string][]int64 {
		m := map[string][]int64{}
		for _, x := range ix.Tensors {
			m[x.Name] = x.Shape
		}
		return m
	}
	for form, typ := range map[string]dtype.Type{"f32": dtype.F32, "f16": dtype.F16, "q8_0": dtype.Q8_0, "q4_0": dtype.Q4_0} {
		ix, err := open(t, filepath.Join(testdata(t), "stories260K", "gguf", "stories260K-"+form+".gguf"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Architecture, ix.Architecture); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
		if diff := cmp.Diff(shapes(want), shapes(ix)); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
		if ix.Format != "gguf" || ix.Tensors[0].Name != "model.embed_tokens.weight" || ix.Tensors[0].DType != typ {
			t.Errorf("%s: format %s, first tensor %+v", form, ix.Format, ix.Tensors[0])
		}
		if ix.Metadata["tokenizer.ggml.model"] != "llama" || ix.Metadata["tokenizer.ggml.tokens"] != "[512 × string]" {
			t.Errorf("%s: metadata %v", form, ix.Metadata)
		}
	}
}

// keys are metadata by key.
type keys map[string]any

func (k keys) encode() (out [][]byte) {
	for _, key := range slices.Sorted(maps.Keys(k)) {
		out = append(out, gguftest.KV(key, k[key]))
	}
	return out
}

// gguf returns a file of F32 tensors with one element each.
func gguf(k keys, names ...string) string {
	f := gguftest.File{Keys: k.encode(), Data: make([]byte, 32*len(names))}
	for i, n := range names {
		f.Tensors = append(f.Tensors, gguftest.Tensor(n, 0, uint64(32*i), 1))
	}
	return string(f.Bytes())
}

// part returns the metadata of one of several parts.
func part(no, count uint16, tensors int32) keys {
	return keys{"split.no": no, "split.count": count, "split.tensors.count": tensors}
}

// TestSplitGGUF opens models in parts, and refuses what is not all of one.
func TestSplitGGUF(t *testing.T) {
	name := func(no, of int) string { return fmt.Sprintf("m-%05d-of-%05d.gguf", no, of) }
	three := map[string]string{
		name(1, 3): gguf(part(0, 3, 3), "a"), name(2, 3): gguf(part(1, 3, 3), "b"), name(3, 3): gguf(part(2, 3, 3), "c"),
	}
	but := func(changes map[string]string) map[string]string {
		m := maps.Clone(three)
		for n, text := range changes {
			if m[n] = text; text == "" {
				delete(m, n)
			}
		}
		return m
	}
	for what, c := range map[string]struct {
		files map[string]string
		entry string
		want  recovery.Class
		says  string
	}{
		"a folder":               {files: three},
		"the first part":         {files: three, entry: name(1, 3)},
		"the last part":          {files: three, entry: name(3, 3)},
		"another model beside":   {files: but(map[string]string{"n.gguf": gguf(nil, "x")}), entry: name(1, 3)},
		"two models":             {files: but(map[string]string{"n.gguf": gguf(nil, "x")}), want: recovery.InvalidCheckpoint, says: "2 GGUF models"},
		"a part missing":         {files: but(map[string]string{name(2, 3): ""}), want: recovery.InvalidCheckpoint, says: name(2, 3)},
		"the first missing":      {files: but(map[string]string{name(1, 3): ""}), want: recovery.InvalidCheckpoint, says: name(1, 3)},
		"a part too many":        {files: but(map[string]string{name(4, 3): gguf(nil)}), want: recovery.InvalidCheckpoint, says: name(4, 3)},
		"a part 0":               {files: but(map[string]string{name(0, 3): gguf(nil)}), want: recovery.InvalidCheckpoint, says: name(0, 3)},
		"parts swapped":          {files: but(map[string]string{name(2, 3): three[name(3, 3)], name(3, 3): three[name(2, 3)]}), want: recovery.InvalidCheckpoint, says: "split.no is 2"},
		"another count":          {files: but(map[string]string{name(2, 3): gguf(part(1, 4, 3), "b")}), want: recovery.InvalidCheckpoint, says: "split.count is 4"},
		"no count":               {files: but(map[string]string{name(2, 3): gguf(nil, "b")}), want: recovery.InvalidCheckpoint, says: "split.count is 0"},
		"a count that is none":   {files: but(map[string]string{name(2, 3): gguf(keys{"split.count": "3"}, "b")}), want: recovery.InvalidCheckpoint, says: "split.count"},
		"tensors missing":        {files: but(map[string]string{name(2, 3): gguf(part(1, 3, 3))}), want: recovery.InvalidCheckpoint, says: "3 tensors in all parts"},
		"a tensor twice":         {files: but(map[string]string{name(2, 3): gguf(part(1, 3, 3), "a")}), want: recovery.InvalidCheckpoint, says: `tensor "a"`},
		"a part corrupt":         {files: but(map[string]string{name(2, 3): "GGUF"}), want: recovery.InvalidCheckpoint, says: name(2, 3)},
		"a part under no name":   {files: map[string]string{"x.gguf": gguf(part(0, 3, 3), "a")}, want: recovery.InvalidCheckpoint, says: "-00001-of-00003.gguf"},
		"the only part":          {files: map[string]string{name(1, 1): gguf(part(0, 1, 1), "a")}},
		"the only part, by name": {files: map[string]string{name(1, 1): gguf(nil, "a")}},
		"part 0 of 0":            {files: map[string]string{name(0, 0): gguf(nil, "a")}},
		"too many parts":         {files: map[string]string{name(1, 99999): gguf(nil, "a")}, want: recovery.InvalidCheckpoint, says: "at most"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			for n, text := range c.files {
				writeText(t, filepath.Join(dir, n), text)
			}
			ix, err := open(t, filepath.Join(dir, c.entry))
			if recovery.ClassOf(err) != c.want {
				t.Fatalf("got %v, want class %q", err, c.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q is not one line that says %q", err, c.says)
				}
				return
			}
			if len(ix.Files) != len(ix.Tensors) || int(ix.Tensors[len(ix.Files)-1].File) != len(ix.Files)-1 {
				t.Errorf("tensors %+v in %d files", ix.Tensors, len(ix.Files))
			}
			server := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer server.Close()
			if remote, err := open(t, server.URL+"/"+c.entry); err != nil || len(remote.Tensors) != len(ix.Tensors) {
				t.Errorf("from a web server: %v", err)
			}
		})
	}
}

// TestGGUFModel takes the architecture from the metadata.
func TestGGUFModel(t *testing.T) {
	type arch = checkpoint.Architecture
	qwen := keys{
		"general.architecture": "qwen2", "qwen2.block_count": uint32(1), "qwen2.embedding_length": uint32(1),
		"qwen2.attention.head_count": uint32(1), "qwen2.context_length": uint64(4096),
	}
	but := func(key string, value any) keys {
		k := maps.Clone(qwen)
		k[key] = value
		return k
	}
	q := arch{Name: "qwen2", Layers: 1, Hidden: 1, Heads: 1, KVHeads: 1, HeadDim: 1, Context: 4096, RopeTheta: 10000}
	layer := func(a arch) arch { a.Parameters = 1; return a }
	for what, c := range map[string]struct {
		k       keys
		tensor  string
		renamed string // "" where it is refused
		want    arch
	}{
		"no metadata":       {nil, "blk.0.attn_q.bias", "blk.0.attn_q.bias", arch{Parameters: 1}},
		"not known":         {keys{"general.architecture": "mamba", "mamba.block_count": uint32(7)}, "blk.0.attn_q.bias", "blk.0.attn_q.bias", arch{Name: "mamba", Layers: 7, Parameters: 1}},
		"not in the family": {keys{"general.architecture": "gemma3", "gemma3.block_count": uint32(7)}, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", arch{Name: "gemma3_text", Layers: 7, Parameters: 1}},
		"a number":          {keys{"general.architecture": uint32(1)}, "output.weight", "output.weight", arch{Parameters: 1}},
		"qwen2":             {qwen, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", layer(q)},
		"head":              {qwen, "output.weight", "lm_head.weight", layer(q)},
		"other ending":      {qwen, "output.scale", "output.scale", layer(q)},
		"no ending":         {qwen, "output", "output", layer(q)},
		"no layer":          {qwen, "blk.attn_q.weight", "blk.attn_q.weight", layer(q)},
		"layer 00":          {qwen, "blk.00.attn_q.weight", "blk.00.attn_q.weight", layer(q)},
		"unknown":           {qwen, "blk.0.attn_sinks.weight", "blk.0.attn_sinks.weight", layer(q)},
		"one of no experts": {keys{"general.architecture": "qwen2moe"}, "blk.0.ffn_up_exps.weight", "blk.0.ffn_up_exps.weight", arch{Name: "qwen2_moe", Parameters: 1}},
		"heads not known":   {keys{"general.architecture": "granite"}, "blk.0.attn_q.bias", "blk.0.attn_q.bias", arch{Name: "granite", Parameters: 1}},
		"heads by layer":    {but("qwen2.attention.head_count_kv", []int32{1}), "output.scale", "output.scale", layer(arch{Name: "qwen2", Layers: 1, Hidden: 1, Heads: 1, HeadDim: 1, Context: 4096, RopeTheta: 10000})},
		"two layers":        {but("qwen2.block_count", uint32(2)), "blk.0.attn_q.bias", "", arch{}},
		"layer 1 of 1":      {qwen, "blk.1.attn_q.bias", "", arch{}},
		"wrong shape":       {but("qwen2.attention.key_length", uint32(2)), "blk.0.attn_q.bias", "", arch{}},
		"kv heads":          {but("qwen2.attention.head_count_kv", uint32(2)), "blk.0.attn_q.bias", "", arch{}},
		"negative":          {but("qwen2.block_count", int32(-1)), "x", "", arch{}},
		"huge":              {but("qwen2.block_count", uint64(1<<63)), "x", "", arch{}},
		"text":              {but("qwen2.block_count", "1"), "x", "", arch{}},
	} {
		t.Run(what, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "m.gguf")
			writeText(t, file, gguf(c.k, c.tensor))
			ix, err := open(t, file)
			if c.renamed == "" {
				if recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), "m.gguf") {
					t.Errorf("got %v, want an invalid_checkpoint that names the file", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ix.Tensors[0].Name != c.renamed {
				t.Errorf("%s is called %s, want %s", c.tensor, ix.Tensors[0].Name, c.renamed)
			}
			if diff := cmp.Diff(c.want, ix.Architecture); diff != "" {
				t.Error(diff)
			}
		})
	}
	// Two names that become one.
	file := filepath.Join(t.TempDir(), "m.gguf")
	writeText(t, file, gguf(qwen, "output.weight", "lm_head.weight"))
	if _, err := open(t, file); recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), "twice") {
		t.Errorf("two heads: %v", err)
	}
}
