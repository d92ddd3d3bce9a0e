package vocab

import (
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/recovery"
)

// The files that are looked at. Others need not be read.
const (
	sentencePieceFile = "tokenizer.model"
	tokenizerFile     = "tokenizer.json"
	tokenizerConfig   = "tokenizer_config.json"
	addedTokensFile   = "added_tokens.json"
	chatTemplateFile  = "chat_template.jinja"
)

// FileNames are the files that New looks at.
var FileNames = []string{sentencePieceFile, tokenizerFile, tokenizerConfig, addedTokensFile, chatTemplateFile}

// MaxTokens bounds a vocabulary. The largest of today's models have 262,144.
const MaxTokens = 1 << 20

// Kind is how llama.cpp tokenizes, tokenizer.ggml.model.
type Kind string

// The kinds.
const (
	None    Kind = "none"  // not at all: it takes and gives ids
	SPM     Kind = "llama" // SentencePiece's BPE: merges by the pieces' scores
	BPE     Kind = "gpt2"  // byte-level BPE: merges by their list
	Unigram Kind = "t5"    // SentencePiece's Unigram: the most likely pieces
)

// Type is a token's type, by the numbers of SentencePiece and of GGUF.
type Type int32

// The types.
const (
	Normal      Type = 1
	Unknown     Type = 2
	Control     Type = 3
	UserDefined Type = 4
	Unused      Type = 5
	Byte        Type = 6
)

// Token is one token; its id is its index.
type Token struct {
	Text  string
	Score float32 // of SPM and Unigram; higher is merged first, or likelier
	Type  Type
}

// Vocab is a vocabulary.
type Vocab struct {
	Kind   Kind
	Pre    string // how BPE splits text into words, as llama.cpp names it
	Tokens []Token
	Merges []string // "left right"
	// Special are ids by role, as the keys name them: bos, eos, unknown,
	// padding, seperator (which is how GGUF spells it), cls, mask.
	Special map[string]int
	Flags   map[string]bool // add_bos_token, add_eos_token, add_space_prefix, remove_extra_whitespaces
	// Charsmap is SentencePiece's compiled normalization, of Unigram.
	Charsmap     []byte
	ChatTemplate string
	// Warnings say what could not be told for sure, one line each.
	Warnings []string

	file string // that it was read from
}

// empty is a vocabulary to read a file into.
func empty(file string) *Vocab {
	return &Vocab{Kind: None, Special: map[string]int{}, Flags: map[string]bool{}, file: file}
}

// New reads the vocabulary from a checkpoint's files, by name, and its
// config.json, which may be nil. rows is how many tokens the embedding has: the
// vocabulary is filled up to it. Without a tokenizer the Vocab has Kind None
// and a warning.
//
// Errors: invalid_checkpoint, with the file; unsupported over MaxTokens.
func New(files map[string][]byte, config []byte, rows int64) (*Vocab, error) {
	if rows < 0 || rows > MaxTokens {
		return nil, recovery.Errorf(recovery.Unsupported, "a vocabulary of %d tokens, at most %d are supported", rows, MaxTokens)
	}
	side, err := parseSide(files)
	if err != nil {
		return nil, err
	}
	v := empty("")
	switch {
	case files[sentencePieceFile] != nil:
		v = empty(sentencePieceFile)
		err = v.sentencePiece(files[sentencePieceFile])
		if err != nil && files[tokenizerFile] != nil { // tiktoken's files have this name too
			v = empty(tokenizerFile)
			v.warnf("%s is no SentencePiece model: the tokenizer is taken from %s", sentencePieceFile, tokenizerFile)
			err = v.tokenizerJSON(files[tokenizerFile])
		}
	case files[tokenizerFile] != nil:
		v = empty(tokenizerFile)
		err = v.tokenizerJSON(files[tokenizerFile])
	default:
		v.warnf("there is no tokenizer.json and no tokenizer.model: the file gets no tokenizer, and engines that run it take and give token ids")
	}
	if err != nil {
		return nil, err
	}
	if err := v.complete(side, config, rows); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Vocab) warnf(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

// grow makes room for the id of a token.
func (v *Vocab) grow(file string, id int) error {
	if id < 0 || id >= MaxTokens {
		return invalid(file, "a token has the id %d, 0 to %d are supported", id, MaxTokens-1)
	}
	for len(v.Tokens) <= id {
		v.Tokens = append(v.Tokens, pad(len(v.Tokens)))
	}
	return nil
}

// pad is the token of an id that the tokenizer does not have.
func pad(id int) Token {
	return Token{Text: fmt.Sprintf("[PAD%d]", id), Score: unusedScore, Type: Unused}
}

// unusedScore is less than any piece's.
const unusedScore = -1e4

// Entries returns the vocabulary as metadata.
func (v *Vocab) Entries() []gguf.Entry {
	const prefix = "tokenizer.ggml."
	e := []gguf.Entry{gguf.NewEntry(prefix+"model", string(v.Kind))}
	if v.Kind == None {
		return e
	}
	if v.Pre != "" {
		e = append(e, gguf.NewEntry(prefix+"pre", v.Pre))
	}
	texts, scores, types := make([]string, len(v.Tokens)), make([]float32, len(v.Tokens)), make([]int32, len(v.Tokens))
	for i, t := range v.Tokens {
		texts[i], scores[i], types[i] = t.Text, t.Score, int32(t.Type)
	}
	e = append(e, gguf.NewArray(prefix+"tokens", texts))
	if v.Kind != BPE {
		e = append(e, gguf.NewArray(prefix+"scores", scores))
	}
	e = append(e, gguf.NewArray(prefix+"token_type", types))
	if v.Kind == BPE {
		e = append(e, gguf.NewArray(prefix+"merges", v.Merges))
	}
	for _, role := range roles {
		if id, ok := v.Special[role]; ok {
			e = append(e, gguf.NewEntry(prefix+role+"_token_id", uint32(id)))
		}
	}
	for _, flag := range flags {
		if on, ok := v.Flags[flag]; ok {
			e = append(e, gguf.NewEntry(prefix+flag, on))
		}
	}
	if v.Kind == Unigram && len(v.Charsmap) > 0 {
		e = append(e, gguf.NewArray(prefix+"precompiled_charsmap", v.Charsmap))
	}
	if v.ChatTemplate != "" {
		e = append(e, gguf.NewEntry("tokenizer.chat_template", v.ChatTemplate))
	}
	return e
}

// roles and flags are the keys of Special and Flags in the order in which they
// are written.
var (
	roles = []string{"bos", "eos", "unknown", "seperator", "padding", "cls", "mask"}
	flags = []string{"add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"}
)

// find returns the id of a token, the last of those that have this text: added
// tokens come behind the others.
func (v *Vocab) find(text string) (int, bool) {
	for i, t := range slices.Backward(v.Tokens) {
		if t.Text == text {
			return i, true
		}
	}
	return 0, false
}

func invalid(file, format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "read tokenizer", File: file, Err: fmt.Errorf(format, args...)}
}
