package quant

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// TestEqualsGGUF holds that what the schemes make of a model's tensors are the
// bytes that llama.cpp's own files of that model hold. q and k are left out:
// their rows lie in another order there.
func TestEqualsGGUF(t *testing.T) {
	dir := filepath.Join(filepath.Dir(testdata(t)), "stories260K")
	tensors := readSafetensors(t, filepath.Join(dir, "hf-f32", "model.safetensors"))
	for _, scheme := range []string{"f32", "f16", "q8_0", "q4_0"} {
		s, err := Parse(scheme)
		if err != nil {
			t.Fatal(err)
		}
		data := readGGUF(t, filepath.Join(dir, "gguf", "stories260K-"+scheme+".gguf"))
		for name, x := range tensors {
			there := ggufName(name)
			if there == "" {
				continue
			}
			stored, ok := data[there]
			if !ok {
				t.Fatalf("%s: no tensor %s", scheme, there)
			}
			became := s // as the loader's policy has it
			if len(x.Shape) == 1 {
				became = cast{dtype.F32}
			} else if _, err := s.Layout(dtype.F32, int64(x.Shape[1])); err != nil {
				became = cast{dtype.F16}
			}
			rows, cols := 1, x.Shape[len(x.Shape)-1]
			if len(x.Shape) == 2 {
				rows = x.Shape[0]
			}
			got := encode(t, became, x.data, dtype.F32, rows, cols)[0]
			if i := firstDiff(got, stored[:len(got)]); i >= 0 {
				t.Errorf("%s: %s as %s differs at byte %d", scheme, name, became.Name(), i)
			}
		}
	}
}

// ggufName returns a tensor's name in llama.cpp's files, "" for q and k.
func ggufName(name string) string {
	const layers = "model.layers."
	switch name {
	case "model.embed_tokens.weight":
		return "token_embd.weight"
	case "model.norm.weight":
		return "output_norm.weight"
	}
	layer, part, _ := strings.Cut(strings.TrimPrefix(name, layers), ".")
	there := map[string]string{
		"input_layernorm.weight":          "attn_norm.weight",
		"post_attention_layernorm.weight": "ffn_norm.weight",
		"self_attn.v_proj.weight":         "attn_v.weight",
		"self_attn.o_proj.weight":         "attn_output.weight",
		"mlp.gate_proj.weight":            "ffn_gate.weight",
		"mlp.up_proj.weight":              "ffn_up.weight",
		"mlp.down_proj.weight":            "ffn_down.weight",
	}[part]
	if there == "" {
		return ""
	}
	return "blk." + layer + "." + there
}

type stored struct {
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
	data    []byte
}

// readSafetensors reads a file of F32 tensors without metadata.
func readSafetensors(t *testing.T, path string) map[string]stored {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body := 8 + int(binary.LittleEndian.Uint64(b))
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(b[8:body], &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "__metadata__")
	all := map[string]stored{}
	for name, r := range raw {
		var x stored
		if err := json.Unmarshal(r, &x); err != nil {
			t.Fatal(err)
		}
		x.data = b[body+x.Offsets[0] : body+x.Offsets[1]]
		all[name] = x
	}
	return all
}

// ggufFile walks over a GGUF file's header (ggml's docs/gguf.md).
type ggufFile struct {
	b  []byte
	at int
}

func (g *ggufFile) u32() int { g.at += 4; return int(binary.LittleEndian.Uint32(g.b[g.at-4:])) }
func (g *ggufFile) u64() int { g.at += 8; return int(binary.LittleEndian.Uint64(g.b[g.at-8:])) }
func (g *ggufFile) text() string {
	n := g.u64()
	g.at += n
	return string(g.b[g.at-n : g.at])
}

// skip walks over a value of the given type and returns it where it is a U32.
func (g *ggufFile) skip(t *testing.T, kind int) (v int) {
	const boolean, u32, str, array = 7, 4, 8, 9
	switch kind {
	case str:
		g.text()
	case array:
		of := g.u32()
		for range g.u64() {
			g.skip(t, of)
		}
	case u32:
		return g.u32()
	case boolean:
		g.at++
	case 5, 6: // I32, F32
		g.at += 4
	default:
		t.Fatalf("a value of type %d, which no file here has", kind)
	}
	return 0
}

// readGGUF returns the bytes from each tensor's beginning to the file's end.
func readGGUF(t *testing.T, path string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := &ggufFile{b: b, at: 8}
	tensors, pairs := g.u64(), g.u64()
	align := 32
	for range pairs {
		key := g.text()
		if v := g.skip(t, g.u32()); key == "general.alignment" {
			align = v
		}
	}
	offsets := map[string]int{}
	for range tensors {
		name := g.text()
		g.at += 8 * g.u32() // dimensions
		g.u32()             // type
		offsets[name] = g.u64()
	}
	start := (g.at + align - 1) / align * align
	data := map[string][]byte{}
	for name, offset := range offsets {
		data[name] = b[start+offset:]
	}
	if len(data) != tensors {
		t.Fatalf("%s names %d tensors twice", path, tensors-len(data))
	}
	return data
}
