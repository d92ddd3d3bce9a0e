//go:build llama

package llama

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// patience is how long a process may take; models here are tiny.
const patience = time.Minute

// run runs a command and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// library finds the one library of a name in GGML_LIB's folder, whatever its
// version.
func library(t *testing.T, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv("GGML_LIB"), name+".*so*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 {
		t.Fatalf("GGML_LIB is %q: want a folder with one %s.*so, found %v", os.Getenv("GGML_LIB"), name, found)
	}
	return filepath.Base(found[0])
}

// tools builds the command and the program that runs models.
func tools(t *testing.T) (gantry, generate string) {
	t.Helper()
	dir := t.TempDir()
	gantry, generate = filepath.Join(dir, "gantry"), filepath.Join(dir, "generate")
	run(t, "go", "build", "-o", gantry, "github.com/gantry-ml/gantry/cmd/gantry")
	run(t, "cc", "-O1", "-DGGML="+strconv.Quote(library(t, "libggml")), "-DLLAMA="+strconv.Quote(library(t, "libllama")),
		"-o", generate, filepath.Join("testdata", "generate.c"), "-ldl")
	return gantry, generate
}

// testdata is the shared test data's folder of stories260K.
func testdata(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("GANTRY_TESTDATA"), "../../../shared/testdata"} {
		if _, err := os.Stat(filepath.Join(dir, "stories260K")); dir != "" && err == nil {
			return filepath.Join(dir, "stories260K")
		}
	}
	t.Fatal("the shared test data is missing: set GANTRY_TESTDATA to its folder")
	return ""
}

// ids reads the ids that a program prints.
func ids(t *testing.T, out string) (list []int) {
	t.Helper()
	for _, f := range strings.Fields(out) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list
}

// TestLlamaCppSpeaks: llama.cpp says with the files that are written of
// stories260K what it says with its own, 40 tokens long; with the formats that
// it has no file of, what it says with F32, or in the coarse ones at least the
// first words.
func TestLlamaCppSpeaks(t *testing.T) {
	gantry, generate := tools(t)
	var expected map[string]struct {
		Prompt []int `json:"prompt_ids"`
		Says   []int `json:"generated_ids_llama_cpp"`
	}
	b, err := os.ReadFile(filepath.Join(testdata(t), "expected_gguf.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &expected); err != nil {
		t.Fatal(err)
	}
	for scheme, c := range map[string]struct {
		like string // whose words are expected
		same int    // how many at least
	}{
		"f32": {"f32", 40}, "f16": {"f16", 40}, "q8_0": {"q8_0", 40}, "q4_0": {"q4_0", 40},
		"none": {"f32", 40}, "bf16": {"f32", 40}, "q5_0": {"f32", 40}, "q5_1": {"f32", 10}, "q4_1": {"f32", 10}, "iq4_nl": {"f32", 10}, "mxfp4": {"f32", 10},
		"q4_K": {"f16", 40}, "q6_K": {"f16", 40}, // which rows of 64 are kept as
	} {
		file := filepath.Join(t.TempDir(), scheme+".gguf")
		run(t, gantry, "quantize", filepath.Join(testdata(t), "hf-f32"), "--to", scheme, "--tp", "2", "--out", file)
		want := expected["stories260K-"+c.like+".gguf"]
		args := []string{os.Getenv("GGML_LIB"), file, "40"}
		for _, id := range want.Prompt {
			args = append(args, strconv.Itoa(id))
		}
		got := ids(t, run(t, generate, args...))
		if len(got) != 40 || !slices.Equal(got[:c.same], want.Says[:c.same]) {
			t.Errorf("%s: llama.cpp says %v, want the first %d of %v", scheme, got, c.same, want.Says)
		}
	}
}

// TestLlamaCppTokenizes: llama.cpp splits text as the model was trained to,
// with the vocabulary from tokenizer.model and with that from tokenizer.json.
func TestLlamaCppTokenizes(t *testing.T) {
	gantry, generate := tools(t)
	var pieces []piece
	b, err := os.ReadFile(filepath.Join(testdata(t), "vocab.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &pieces); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{"tokenizer.model": sentencePiece(pieces), "tokenizer.json": tokenizerJSON(t, pieces)} {
		dir := filepath.Join(t.TempDir(), "model")
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(testdata(t), "hf-f32"))); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), file, 0o600); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "out.gguf")
		run(t, gantry, "quantize", dir, "--to", "q8_0", "--out", out)
		for text, want := range map[string][]int{
			"Once upon a time": {1, 403, 407, 261, 378},
			"日\n":              {1, 410, 233, 154, 168, 13}, // by bytes: E6 97 A5, 0A
		} {
			if got := ids(t, run(t, generate, os.Getenv("GGML_LIB"), out, "0", "-t", text)); !slices.Equal(got, want) {
				t.Errorf("%s: %q is %v, want %v", name, text, got, want)
			}
		}
	}
}

// piece is one of stories260K's vocabulary.
type piece struct {
	Piece string
	Score float32
	Type  uint64
}

// sentencePiece writes pieces as a SentencePiece model of type BPE.
func sentencePiece(pieces []piece) (model []byte) {
	for _, p := range pieces {
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p.Piece)
		b = protowire.AppendFixed32(protowire.AppendTag(b, 2, protowire.Fixed32Type), math.Float32bits(p.Score))
		b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), p.Type)
		model = protowire.AppendBytes(protowire.AppendTag(model, 1, protowire.BytesType), b)
	}
	trainer := protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 2)
	return protowire.AppendBytes(protowire.AppendTag(model, 2, protowire.BytesType), trainer)
}

// tokenizerJSON writes pieces as transformers converts a SentencePiece model:
// each way to make a piece of two others is a merge, the best piece first.
func tokenizerJSON(t *testing.T, pieces []piece) []byte {
	t.Helper()
	ids, score := map[string]int{}, map[string]float32{}
	for i, p := range pieces {
		ids[p.Piece], score[p.Piece] = i, p.Score
	}
	var merges [][2]string
	for _, p := range pieces {
		for i := range p.Piece {
			left, right := p.Piece[:i], p.Piece[i:]
			_, l := ids[left]
			_, r := ids[right]
			if p.Type == 1 && l && r {
				merges = append(merges, [2]string{left, right})
			}
		}
	}
	slices.SortStableFunc(merges, func(a, b [2]string) int { return int(score[b[0]+b[1]] - score[a[0]+a[1]]) })
	special := func(id int, text string) map[string]any {
		return map[string]any{"id": id, "content": text, "special": true}
	}
	b, err := json.Marshal(map[string]any{
		"added_tokens": []any{special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")},
		"normalizer":   map[string]any{"type": "Prepend", "prepend": "▁"},
		"post_processor": map[string]any{"type": "TemplateProcessing", "single": []any{
			map[string]any{"SpecialToken": map[string]any{"id": "<s>"}}, map[string]any{"Sequence": map[string]any{"id": "A"}}}},
		"model": map[string]any{"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": true, "unk_token": "<unk>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
