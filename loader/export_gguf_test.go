package loader

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/loader/internal/testllama"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// ggufFile is a file of GGUF, read whole.
type ggufFile struct {
	*gguf.Header
	data []byte
}

func readGGUFFile(t testing.TB, path string) ggufFile {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return ggufFile{h, b}
}

// tensors returns the file's tensors by name, with their bytes.
func (f ggufFile) tensors() map[string]gguf.Tensor {
	all := map[string]gguf.Tensor{}
	for _, x := range f.Tensors {
		all[x.Name] = x
	}
	return all
}

func (f ggufFile) bytes(x gguf.Tensor) []byte { return f.data[x.Offset : x.Offset+x.Bytes] }

// raw returns the metadata by key: each value's type and bytes, as text.
func (f ggufFile) raw(t testing.TB) map[string]string {
	t.Helper()
	all := map[string]string{}
	at := 24
	text := func() string {
		n := int(leUint(f.data[at:], 8))
		at += 8 + n
		return string(f.data[at-n : at])
	}
	sizes := map[uint64]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
	value := func(kind uint64) {
		if kind == 8 {
			text()
			return
		}
		at += sizes[kind]
	}
	for range f.Metadata {
		key := text()
		from, kind := at, leUint(f.data[at:], 4)
		at += 4
		if kind == 9 {
			elem, n := leUint(f.data[at:], 4), leUint(f.data[at+4:], 8)
			at += 12
			for range n {
				value(elem)
			}
		} else {
			value(kind)
		}
		all[key] = string(f.data[from:at])
	}
	return all
}

func leUint(b []byte, n int) (v uint64) {
	for i := range n {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

// storiesFolder makes a folder of hf-f32 with its tokenizer.model, which the
// test data has as pieces, scores and types in llama.cpp's files.
func storiesFolder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stories260K")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(testdata(t, "stories260K"), "hf-f32"))); err != nil {
		t.Fatal(err)
	}
	var model []byte
	for _, p := range storiesPieces(t) {
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p.Piece)
		b = protowire.AppendFixed32(protowire.AppendTag(b, 2, protowire.Fixed32Type), math.Float32bits(p.Score))
		b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), p.Type)
		model = protowire.AppendBytes(protowire.AppendTag(model, 1, protowire.BytesType), b)
	}
	// trainer_spec: model_type BPE
	model = protowire.AppendBytes(protowire.AppendTag(model, 2, protowire.BytesType), protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 2))
	for name, b := range map[string][]byte{"tokenizer.model": model, "tokenizer_config.json": []byte(`{"add_bos_token": true}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type piece260K struct {
	Piece string
	Score float32
	Type  uint64
}

func storiesPieces(t testing.TB) []piece260K {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata(t, "stories260K"), "vocab.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []piece260K
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// exportGGUF loads and writes a file, and fails on warnings.
func exportGGUF(t testing.TB, folder, scheme string, tp int) ggufFile {
	t.Helper()
	c, layout := quant.Config{Scheme: scheme}, WithLayout(shard.Layout{TP: tp})
	plan, err := New(layout, WithQuantization(c)).Plan(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	c.Overrides = model.GGUFOverrides(plan)
	m := load(t, folder, layout, WithQuantization(c))
	path := filepath.Join(t.TempDir(), "out.gguf")
	warnings, err := m.ExportGGUF(t.Context(), path)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%s tp %d: %v, warnings %q", scheme, tp, err, warnings)
	}
	return readGGUFFile(t, path)
}

// TestGGUFIsLlamaCpps: the files that are written of stories260K hold what
// llama.cpp's own files of it hold: each tensor's type, shape and bytes, and
// each key of the metadata but two.
func TestGGUFIsLlamaCpps(t *testing.T) {
	folder := storiesFolder(t)
	for _, scheme := range []string{"q8_0", "q4_0", "f16", "f32"} {
		want := readGGUFFile(t, filepath.Join(testdata(t, "stories260K"), "gguf", "stories260K-"+scheme+".gguf"))
		got := exportGGUF(t, folder, scheme, 2)
		have, should := got.tensors(), want.tensors()
		if !slices.Equal(slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(should))) {
			t.Fatalf("%s: tensors %v", scheme, slices.Sorted(maps.Keys(have)))
		}
		for name, w := range should {
			g := have[name]
			if g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) {
				t.Errorf("%s: %s is %s of %v, want %s of %v", scheme, name, g.DType, g.Shape, w.DType, w.Shape)
			} else if !bytes.Equal(got.bytes(g), want.bytes(w)) {
				t.Errorf("%s: %s has other bytes", scheme, name)
			}
		}
		ours, theirs := got.raw(t), want.raw(t)
		// The name is the folder's, and a licence is in no file of the folder.
		theirs["general.name"] = ours["general.name"]
		delete(theirs, "general.license")
		if name, _ := got.Find("general.name"); name.String() != "stories260K" {
			t.Errorf("%s: the model is called %s", scheme, name)
		}
		if scheme == "f16" || scheme == "f32" {
			// Only quantized files need the version of the block types.
			delete(theirs, "general.quantization_version")
		}
		for key := range maps.Keys(theirs) {
			if ours[key] != theirs[key] {
				t.Errorf("%s: %s is %.60q, want %.60q", scheme, key, ours[key], theirs[key])
			}
			delete(ours, key)
		}
		if len(ours) > 0 {
			t.Errorf("%s: more keys: %v", scheme, slices.Sorted(maps.Keys(ours)))
		}
	}
}

// TestGGUFKeeps: a GGUF file that is loaded as it is is written as it was, but
// for the order of tensors: blocks, order of rows, metadata and tokenizer. One
// that is quantized anew says so.
func TestGGUFKeeps(t *testing.T) {
	for _, stored := range []string{"f32", "f16", "q8_0", "q4_0"} {
		path := filepath.Join(testdata(t, "stories260K"), "gguf", "stories260K-"+stored+".gguf")
		want, got := readGGUFFile(t, path), exportGGUF(t, path, "none", 4)
		theirs, ours := want.raw(t), got.raw(t)
		if stored == "f32" || stored == "f16" {
			delete(theirs, "general.quantization_version") // only quantized files need it
		}
		if !maps.Equal(ours, theirs) {
			t.Errorf("%s: another metadata: %v, want %v", stored, slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(theirs)))
		}
		have := got.tensors()
		for _, w := range want.Tensors {
			if g := have[w.Name]; g.DType != w.DType || !bytes.Equal(got.bytes(g), want.bytes(w)) {
				t.Errorf("%s: %s is another", stored, w.Name)
			}
		}
		if len(have) != len(want.Tensors) {
			t.Errorf("%s: %d tensors, want %d", stored, len(have), len(want.Tensors))
		}
	}
	got := exportGGUF(t, filepath.Join(testdata(t, "stories260K"), "gguf", "stories260K-f16.gguf"), "q4_0", 2)
	if v, _ := got.Find("general.file_type"); v.String() != "2" || got.tensors()["blk.0.attn_q.weight"].DType != dtype.Q4_0 {
		t.Errorf("f16 to q4_0: file type %s, %s", v, got.tensors()["blk.0.attn_q.weight"].DType)
	}
}

// TestGGUFLayouts: the parallel layout changes no byte of the file.
func TestGGUFLayouts(t *testing.T) {
	folder := storiesFolder(t)
	for _, scheme := range []string{"none", "bf16", "q8_0", "q5_1", "q6_K"} {
		one := exportGGUF(t, folder, scheme, 1)
		for _, tp := range []int{2, 4} {
			if many := exportGGUF(t, folder, scheme, tp); !bytes.Equal(one.data, many.data) {
				t.Errorf("%s: tp %d changes the file", scheme, tp)
			}
		}
	}
}

// TestGGUFSpeaks: the forward pass over what the written files' blocks decode
// to says what llama.cpp says with its own files.
func TestGGUFSpeaks(t *testing.T) {
	folder := storiesFolder(t)
	for _, scheme := range []string{"f32", "f16", "q8_0", "q4_0"} {
		want := expectation(t, "expected_gguf.json", "stories260K-"+scheme+".gguf")
		got, err := speakGGUF(exportGGUF(t, folder, scheme, 4), want.Prompt, len(want.LlamaCPP))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want.LlamaCPP) {
			t.Errorf("%s: %v, want %v", scheme, got, want.LlamaCPP)
		}
	}
}

// speakGGUF runs a file of stories260K: its tensors are decoded, and the rows
// of query and key projections brought into Hugging Face's order.
func speakGGUF(f ggufFile, prompt []int, n int) ([]int, error) {
	const heads, head = 8, 8
	tensors, table := f.tensors(), names.ForModel("llama")
	m, err := testllama.New(testllama.Config{Hidden: 64, Layers: 5, Heads: heads, KVHeads: 4, Eps: 1e-5, Theta: 10_000}, func(name string) ([]float32, error) {
		there, _, ok := table.GGUF(name)
		x, stored := tensors[there]
		if !ok || !stored {
			return nil, fmt.Errorf("no tensor %s", name)
		}
		s, err := quant.Parse(map[bool]string{true: strings.ToLower(x.DType.String()), false: "none"}[x.DType.Quantized()])
		if err != nil {
			return nil, err
		}
		rows, cols := 1, int(x.Shape[len(x.Shape)-1])
		if len(x.Shape) == 2 {
			rows = int(x.Shape[0])
		}
		from := x.DType
		if x.DType.Quantized() {
			from = dtype.F32 // which was encoded
		}
		values := make([]float32, rows*cols)
		s.Decode(values, [][]byte{f.bytes(x)}, from, rows, cols)
		if table.Interleaved(name) == names.NoHeads {
			return values, nil
		}
		ordered := make([]float32, len(values))
		for r := range rows {
			copy(ordered[int(names.FromGGUF(int64(r), head))*cols:][:cols], values[r*cols:])
		}
		return ordered, nil
	})
	if err != nil {
		return nil, err
	}
	ids, _ := m.Greedy(prompt, n)
	return ids, nil
}
