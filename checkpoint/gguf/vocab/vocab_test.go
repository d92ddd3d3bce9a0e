package vocab

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/recovery"
)

// stories reads the vocabulary of stories260K, as its SentencePiece model has
// it.
func stories(t testing.TB) []Token {
	t.Helper()
	dir := os.Getenv("GANTRY_TESTDATA")
	for at, err := os.Getwd(); dir == "" && err == nil && at != "/"; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "..", "shared", "testdata")); err == nil {
			dir = filepath.Join(at, "..", "shared", "testdata")
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "stories260K", "vocab.json"))
	if err != nil {
		t.Fatalf("no test data: set GANTRY_TESTDATA to its folder: %v", err)
	}
	var list []struct {
		Piece string
		Score float32
		Type  Type
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	var all []Token
	for _, p := range list {
		all = append(all, Token{p.Piece, p.Score, p.Type})
	}
	return all
}

// sentencePieceModel writes a tokenizer.model.
func sentencePieceModel(tokens []Token, kind uint64) []byte {
	var b []byte
	bytesField := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	varint := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	for _, t := range tokens {
		p := bytesField(nil, 1, []byte(t.Text))
		p = protowire.AppendFixed32(protowire.AppendTag(p, 2, protowire.Fixed32Type), math.Float32bits(t.Score))
		if t.Type != Normal { // the default is not written
			p = varint(p, 3, uint64(t.Type))
		}
		b = bytesField(b, 1, p)
	}
	b = bytesField(b, 2, varint(varint(nil, 3, kind), 43, math.MaxUint64)) // pad_id -1
	return bytesField(b, 3, bytesField(nil, 1, []byte("identity")))
}

// TestSentencePiece: a model's tokenizer.model gives its pieces as they are.
func TestSentencePiece(t *testing.T) {
	want := stories(t)
	v, err := New(map[string][]byte{sentencePieceFile: sentencePieceModel(want, 2)}, nil, 512)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, v.Tokens); v.Kind != SPM || diff != "" {
		t.Errorf("%s: %s", v.Kind, diff)
	}
	if diff := cmp.Diff(map[string]int{"unknown": 0, "bos": 1, "eos": 2}, v.Special); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]bool{"add_space_prefix": true}, v.Flags); diff != "" {
		t.Error(diff)
	}
	if v, err = New(map[string][]byte{sentencePieceFile: sentencePieceModel(want, 1)}, nil, 512); err != nil || v.Kind != Unigram {
		t.Errorf("Unigram: %v, %v", v, err)
	}
}

// TestScoresOfMerges: from the tokenizer.json into which the same model is
// converted, which has merges and no scores, the scores come back.
func TestScoresOfMerges(t *testing.T) {
	want := stories(t)
	ids, score := map[string]int{}, map[string]float32{}
	for i, x := range want {
		ids[x.Text], score[x.Text] = i, x.Score
	}
	// As transformers' SentencePieceExtractor has it: each way to make a piece
	// of two others, the best piece first.
	var merges [][2]string
	for _, x := range want {
		for i := range x.Text {
			l, r := x.Text[:i], x.Text[i:]
			if _, ok := ids[l]; i > 0 && ok && x.Type == Normal {
				if _, ok := ids[r]; ok {
					merges = append(merges, [2]string{l, r})
				}
			}
		}
	}
	slices.SortStableFunc(merges, func(a, b [2]string) int { return int(score[b[0]+b[1]] - score[a[0]+a[1]]) })
	for name, written := range map[string]any{"pairs": merges, "strings": joined(merges)} {
		file, err := json.Marshal(map[string]any{
			"added_tokens": []map[string]any{{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true}},
			"normalizer":   map[string]any{"type": "Sequence", "normalizers": []map[string]any{{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": map[string]string{"String": " "}, "content": "▁"}}},
			"post_processor": map[string]any{"type": "TemplateProcessing", "single": []map[string]any{
				{"SpecialToken": map[string]any{"id": "<s>", "type_id": 0}}, {"Sequence": map[string]any{"id": "A", "type_id": 0}}}},
			"model": map[string]any{"type": "BPE", "vocab": ids, "merges": written, "byte_fallback": true, "unk_token": "<unk>"},
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := New(map[string][]byte{tokenizerFile: file}, []byte(`{"bos_token_id": 1, "eos_token_id": [2, 3]}`), 512)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, v.Tokens); v.Kind != SPM || diff != "" {
			t.Errorf("%s: %s: %s", name, v.Kind, diff)
		}
		if diff := cmp.Diff(map[string]int{"unknown": 0, "bos": 1, "eos": 2}, v.Special); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]bool{"add_space_prefix": true, "add_bos_token": true, "add_eos_token": false}, v.Flags); diff != "" {
			t.Error(diff)
		}
	}
}

func joined(merges [][2]string) []string {
	var all []string
	for _, m := range merges {
		all = append(all, m[0]+" "+m[1])
	}
	return all
}

// TestByteLevel: byte-level BPE in the way of Qwen 2.5: tokens of the model,
// added ones of both kinds, and what the embedding has beyond them.
func TestByteLevel(t *testing.T) {
	file := `{"added_tokens": [{"id": 4, "content": "<|im_end|>", "special": true}, {"id": 5, "content": "<tool_call>", "special": false}],
		"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
			{"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated"},
			{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
		"post_processor": {"type": "ByteLevel"},
		"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3}, "merges": [["a", "b"], ["Ġ a", "b"]]}}`
	config := `{"add_bos_token": false, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|im_end|>", "bos_token": null,
		"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]}`
	v, err := New(map[string][]byte{tokenizerFile: []byte(file), tokenizerConfig: []byte(config)}, nil, 8)
	if err != nil {
		t.Fatal(err)
	}
	want := &Vocab{Kind: BPE, Pre: "qwen2", ChatTemplate: "yes",
		Tokens: []Token{{"a", 0, Normal}, {"b", 0, Normal}, {"Ġ", 0, Normal}, {"ab", 0, Normal},
			{"<|im_end|>", -1000, Control}, {"<tool_call>", -1000, UserDefined}, {"[PAD6]", -10000, Unused}, {"[PAD7]", -10000, Unused}},
		Merges: []string{"a b", "ĠĠa b"}, Special: map[string]int{"eos": 4, "padding": 4}, Flags: map[string]bool{"add_bos_token": false}}
	if diff := cmp.Diff(want, v, cmp.AllowUnexported(Vocab{}), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".file" }, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}
	var keys []string
	for _, e := range v.Entries() {
		keys = append(keys, strings.TrimPrefix(e.Key, "tokenizer."))
	}
	if got, want := strings.Join(keys, " "), "ggml.model ggml.pre ggml.tokens ggml.token_type ggml.merges ggml.eos_token_id ggml.padding_token_id ggml.add_bos_token chat_template"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
}

// TestPre: the ways of splitting text that llama.cpp has names for.
func TestPre(t *testing.T) {
	split := func(regex string) component { return component{Type: "Split", Pattern: pattern{Regex: regex}} }
	no := false
	bytes, own := component{Type: "ByteLevel", UseRegex: &no}, component{Type: "ByteLevel"}
	for name, steps := range map[string][]component{
		"gpt-2":     {own},
		"starcoder": {{Type: "Digits", Individual: true}, own},
	} {
		if got, known := preOf(steps); got != name || !known {
			t.Errorf("%s is called %s, known %v", name, got, known)
		}
	}
	for regex, want := range prePatterns {
		if got, known := preOf([]component{split(regex), bytes}); got != want || !known {
			t.Errorf("%s is called %s, known %v", want, got, known)
		}
	}
	for name, steps := range map[string][]component{
		"another regex": {split(`\s+`), bytes}, "two splits": {split(`a`), split(`b`), bytes}, "none": {},
		"no bytes": {split(`a`)}, "whitespace": {{Type: "Whitespace"}, own}, "digits and regex": {{Type: "Digits", Individual: true}, split(`a`), bytes},
	} {
		if got, known := preOf(steps); got != "default" || known {
			t.Errorf("%s is called %s, known %v", name, got, known)
		}
	}
}

// TestUnigram reads a Unigram tokenizer.json.
func TestUnigram(t *testing.T) {
	file := `{"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AQID"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
		"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
		"model": {"type": "Unigram", "unk_id": 1, "byte_fallback": true, "vocab": [["</s>", 0.0], ["<unk>", 0], ["<0x0A>", 0], ["▁a", -2.5]]}}`
	v, err := New(map[string][]byte{tokenizerFile: []byte(file)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []Token{{"</s>", 0, Normal}, {"<unk>", 0, Unknown}, {"<0x0A>", 0, Byte}, {"▁a", -2.5, Normal}}
	if diff := cmp.Diff(want, v.Tokens); v.Kind != Unigram || diff != "" || !cmp.Equal(v.Charsmap, []byte{1, 2, 3}) {
		t.Errorf("%s, %v: %s", v.Kind, v.Charsmap, diff)
	}
	if diff := cmp.Diff(map[string]bool{"add_space_prefix": true, "remove_extra_whitespaces": true}, v.Flags); diff != "" {
		t.Error(diff)
	}
}

// TestWithout: without a tokenizer, or with one of a kind that is not known,
// there is none, and a warning.
func TestWithout(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"nothing":   nil,
		"WordPiece": {tokenizerFile: []byte(`{"model": {"type": "WordPiece", "vocab": {"a": 0}}}`)},
	} {
		v, err := New(files, []byte(`{"bos_token_id": 1}`), 512)
		if err != nil {
			t.Fatal(err)
		}
		if e := v.Entries(); v.Kind != None || len(v.Warnings) != 1 || len(e) != 1 || e[0].Key != "tokenizer.ggml.model" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	// What is called tokenizer.model may be tiktoken's.
	v, err := New(map[string][]byte{sentencePieceFile: []byte("IQ== 0\n"), tokenizerFile: []byte(`{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}`)}, nil, 0)
	if err != nil || v.Kind != BPE || v.Pre != "gpt-2" || len(v.Warnings) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestRefuses: what contradicts itself is an invalid checkpoint, and the file
// is named.
func TestRefuses(t *testing.T) {
	bpe := func(vocab, more string) map[string][]byte {
		return map[string][]byte{tokenizerFile: []byte(`{"model": {"type": "BPE", "vocab": ` + vocab + more + `}}`)}
	}
	for name, c := range map[string]struct {
		files map[string][]byte
		says  string
	}{
		"no JSON":             {map[string][]byte{tokenizerFile: []byte(`{`)}, tokenizerFile},
		"no vocabulary":       {bpe(`{}`, ``), "without tokens"},
		"negative id":         {bpe(`{"a": -1}`, ``), "-1"},
		"large id":            {bpe(`{"a": 1048576}`, ``), "1048576"},
		"an id twice":         {bpe(`{"a": 0, "b": 0}`, ``), "same id"},
		"half a merge":        {bpe(`{"a": 0}`, `, "merges": ["ab"]`), "no pair"},
		"merges of numbers":   {bpe(`{"a": 0}`, `, "merges": [1]`), "merges"},
		"more than rows":      {bpe(`{"a": 9}`, ``), "8 rows"},
		"Unigram of words":    {map[string][]byte{tokenizerFile: []byte(`{"model": {"type": "Unigram", "vocab": ["a"]}}`)}, "vocabulary"},
		"Unigram without unk": {map[string][]byte{tokenizerFile: []byte(`{"model": {"type": "Unigram", "unk_id": 1, "vocab": [["a", 0]]}}`)}, "unk_id"},
		"no protobuf":         {map[string][]byte{sentencePieceFile: []byte("\xff\xff")}, sentencePieceFile},
		"no pieces":           {map[string][]byte{sentencePieceFile: {}}, "without pieces"},
		"type 7":              {map[string][]byte{sentencePieceFile: sentencePieceModel([]Token{{"a", 0, 7}}, 2)}, "type 7"},
		"words":               {map[string][]byte{sentencePieceFile: sentencePieceModel([]Token{{"a", 0, 1}}, 3)}, "type 3"},
		"a score of NaN":      {map[string][]byte{sentencePieceFile: sentencePieceModel([]Token{{"a", float32(math.NaN()), 1}}, 2)}, "NaN"},
		"side file":           {map[string][]byte{tokenizerConfig: []byte(`[]`)}, tokenizerConfig},
	} {
		_, err := New(c.files, nil, 8)
		if recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want invalid_checkpoint and %q", name, err, c.says)
		}
	}
}

// FuzzNew: whatever the files hold, there is a vocabulary that fits the
// embedding and whose special ids are in it, or an error; never a panic.
func FuzzNew(f *testing.F) {
	f.Add([]byte(`{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}`), sentencePieceModel(stories(f)[:300], 2), []byte(`{"bos_token": "a", "added_tokens_decoder": {"3": {"content": "<|x|>"}}}`))
	f.Add([]byte(`{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}}`), []byte(nil), []byte(`{}`))
	f.Fuzz(func(t *testing.T, tokenizer, model, config []byte) {
		files := map[string][]byte{tokenizerFile: tokenizer, tokenizerConfig: config}
		if len(model) > 0 {
			files[sentencePieceFile] = model
		}
		const rows = 512
		v, err := New(files, nil, rows)
		if err != nil {
			if c := recovery.ClassOf(err); c != recovery.InvalidCheckpoint && c != recovery.Unsupported {
				t.Errorf("class %s: %v", c, err)
			}
			return
		}
		if v.Kind != None && len(v.Tokens) != rows {
			t.Errorf("%d tokens", len(v.Tokens))
		}
		for role, id := range v.Special {
			if id < 0 || id >= len(v.Tokens) {
				t.Errorf("%s is %d", role, id)
			}
		}
		v.Entries()
	})
}
