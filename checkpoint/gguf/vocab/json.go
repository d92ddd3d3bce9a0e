package vocab

import (
	"bytes"
	"encoding/json"
	"strings"
)

// tokenizerJSON is what is read of a tokenizer.json, as Hugging Face's
// tokenizers library writes it.
type tokenizerJSON struct {
	Added         []addedToken `json:"added_tokens"`
	Normalizer    component    `json:"normalizer"`
	PreTokenizer  component    `json:"pre_tokenizer"`
	PostProcessor component    `json:"post_processor"`
	Model         struct {
		Type         string          `json:"type"`
		Vocab        json.RawMessage `json:"vocab"`  // an object of ids, or of Unigram a list of [piece, score]
		Merges       json.RawMessage `json:"merges"` // "left right", or [left, right]
		ByteFallback bool            `json:"byte_fallback"`
		UnkToken     string          `json:"unk_token"`
		UnkID        *int            `json:"unk_id"`
	} `json:"model"`
}

// component is one step of a tokenizer, or a sequence of them. Of its
// parameters it has those that are asked about.
type component struct {
	Type          string      `json:"type"`
	Pretokenizers []component `json:"pretokenizers"`
	Normalizers   []component `json:"normalizers"`
	Processors    []component `json:"processors"`

	Pattern       pattern    `json:"pattern"`              // of Split and Replace
	Content       string     `json:"content"`              // of Replace
	Prepend       string     `json:"prepend"`              // of Prepend
	AddPrefix     *bool      `json:"add_prefix_space"`     // of Metaspace
	PrependScheme string     `json:"prepend_scheme"`       // of Metaspace
	UseRegex      *bool      `json:"use_regex"`            // of ByteLevel
	Individual    bool       `json:"individual_digits"`    // of Digits
	Charsmap      []byte     `json:"precompiled_charsmap"` // of Precompiled, in base64
	Single        []struct { // of TemplateProcessing
		Special *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
	} `json:"single"`
}

// pattern is what a step looks for: a regular expression or a text.
type pattern struct{ Regex, String string }

// steps lists the component's steps, itself where it is no sequence.
func (c component) steps() []component {
	var all []component
	for _, list := range [][]component{c.Pretokenizers, c.Normalizers, c.Processors} {
		for _, s := range list {
			all = append(all, s.steps()...)
		}
	}
	if all == nil && c.Type != "" && c.Type != "Sequence" {
		return []component{c}
	}
	return all
}

// tokenizerJSON reads a tokenizer.json.
func (v *Vocab) tokenizerJSON(data []byte) error {
	var t tokenizerJSON
	if err := json.Unmarshal(data, &t); err != nil {
		return invalid(tokenizerFile, "%w", err)
	}
	var err error
	switch {
	case t.Model.Type == "Unigram":
		err = v.unigram(&t)
	case t.Model.Type != "BPE" && (t.Model.Type != "" || t.Model.Merges == nil):
		v.warnf("a tokenizer of type %q is not supported: the file gets no tokenizer, and engines that run it take and give token ids", t.Model.Type)
		return nil
	case byteLevel(&t):
		err = v.byteLevel(&t)
	default:
		err = v.pieces(&t)
	}
	if err != nil {
		return err
	}
	for _, a := range t.Added {
		if err := v.add(tokenizerFile, a); err != nil {
			return err
		}
	}
	if id, ok := v.find(t.Model.UnkToken); ok && t.Model.UnkToken != "" {
		v.Special["unknown"] = id
	}
	v.template(&t)
	return nil
}

// byteLevel reports whether bytes are written as printable characters, as GPT-2
// does, rather than spaces as ▁.
func byteLevel(t *tokenizerJSON) bool {
	for _, s := range t.PreTokenizer.steps() {
		if s.Type == "ByteLevel" {
			return true
		}
	}
	return false
}

// byteLevel reads byte-level BPE.
func (v *Vocab) byteLevel(t *tokenizerJSON) error {
	v.Kind = BPE
	if err := v.ids(t); err != nil {
		return err
	}
	for i := range v.Tokens {
		v.Tokens[i].Score = 0 // BPE goes by its merges
	}
	merges, err := mergesOf(t)
	if err != nil {
		return err
	}
	for _, m := range merges {
		// A space inside a token would end it; GPT-2's alphabet writes it Ġ.
		v.Merges = append(v.Merges, strings.ReplaceAll(m[0], " ", "Ġ")+" "+strings.ReplaceAll(m[1], " ", "Ġ"))
	}
	var known bool
	if v.Pre, known = preOf(t.PreTokenizer.steps()); !known {
		v.warnf("the way in which %s splits text into words is none that is known: tokenizer.ggml.pre is %q, and text may be tokenized otherwise", tokenizerFile, v.Pre)
	}
	return nil
}

// pieces reads BPE over SentencePiece's pieces. llama.cpp merges by the pieces'
// scores there, which such a file does not have: like SentencePiece's trainer
// it gives the pieces 0, -1, -2 and so on, in the order in which merges make
// them, and what no merge makes what follows.
func (v *Vocab) pieces(t *tokenizerJSON) error {
	v.Kind = SPM
	if err := v.ids(t); err != nil {
		return err
	}
	merges, err := mergesOf(t)
	if err != nil {
		return err
	}
	rank := make(map[string]int, len(merges))
	for _, m := range merges {
		made := m[0] + m[1]
		if _, ok := rank[made]; !ok {
			rank[made] = len(rank)
		}
	}
	added := map[string]bool{}
	for _, a := range t.Added {
		added[a.Content] = true
	}
	rest := len(rank)
	for i := range v.Tokens {
		x := &v.Tokens[i]
		switch r, made := rank[x.Text]; {
		case x.Type == Unused || added[x.Text] && x.Text != t.Model.UnkToken:
		case t.Model.ByteFallback && isByte(x.Text):
			x.Type, x.Score = Byte, 0
		case x.Text == t.Model.UnkToken && x.Text != "":
			x.Type, x.Score = Unknown, 0
		case made:
			x.Score = -float32(r)
		default:
			x.Score = -float32(rest)
			rest++
		}
	}
	v.Flags["add_space_prefix"] = prefixed(t)
	return nil
}

// unigram reads a Unigram model.
func (v *Vocab) unigram(t *tokenizerJSON) error {
	v.Kind = Unigram
	var list [][2]json.RawMessage
	if err := json.Unmarshal(t.Model.Vocab, &list); err != nil {
		return invalid(tokenizerFile, "vocabulary: %w", err)
	}
	if len(list) > MaxTokens {
		return invalid(tokenizerFile, "more than %d pieces", MaxTokens)
	}
	for i, pair := range list {
		x := Token{Type: Normal}
		if err := json.Unmarshal(pair[0], &x.Text); err != nil {
			return invalid(tokenizerFile, "piece %d: %w", i, err)
		}
		if err := json.Unmarshal(pair[1], &x.Score); err != nil {
			return invalid(tokenizerFile, "piece %d, %.40q: %w", i, x.Text, err)
		}
		if t.Model.ByteFallback && isByte(x.Text) {
			x.Type = Byte
		}
		v.Tokens = append(v.Tokens, x)
	}
	if id := t.Model.UnkID; id != nil {
		if *id < 0 || *id >= len(v.Tokens) {
			return invalid(tokenizerFile, "unk_id is %d of %d pieces", *id, len(v.Tokens))
		}
		v.Tokens[*id].Type, v.Special["unknown"] = Unknown, *id
	}
	v.Flags["add_space_prefix"], v.Flags["remove_extra_whitespaces"] = prefixed(t), false
	for _, s := range t.Normalizer.steps() {
		switch s.Type {
		case "Precompiled":
			v.Charsmap = s.Charsmap
		case "Replace": // " {2,}" by one space
			v.Flags["remove_extra_whitespaces"] = v.Flags["remove_extra_whitespaces"] || strings.HasPrefix(s.Pattern.Regex, " {2,}")
		}
	}
	return nil
}

// ids reads a vocabulary of ids by text.
func (v *Vocab) ids(t *tokenizerJSON) error {
	var ids map[string]int
	if err := json.Unmarshal(t.Model.Vocab, &ids); err != nil {
		return invalid(tokenizerFile, "vocabulary: %w", err)
	}
	for text, id := range ids {
		if err := v.grow(tokenizerFile, id); err != nil {
			return err
		}
		if v.Tokens[id].Type != Unused {
			return invalid(tokenizerFile, "%.40q and %.40q have the same id, %d", min(text, v.Tokens[id].Text), max(text, v.Tokens[id].Text), id)
		}
		v.Tokens[id] = Token{Text: text, Type: Normal}
	}
	if len(v.Tokens) == 0 {
		return invalid(tokenizerFile, "a vocabulary without tokens")
	}
	return nil
}

// mergesOf reads the merges, which are written in two ways.
func mergesOf(t *tokenizerJSON) ([][2]string, error) {
	raw := bytes.TrimSpace(t.Model.Merges)
	if len(raw) == 0 {
		return nil, nil
	}
	var pairs [][2]string
	if json.Unmarshal(raw, &pairs) == nil {
		return pairs, nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalid(tokenizerFile, "merges: %w", err)
	}
	pairs = make([][2]string, len(list))
	for i, m := range list {
		left, right, ok := strings.Cut(m, " ")
		if !ok {
			return nil, invalid(tokenizerFile, "merge %d, %.40q, is no pair", i, m)
		}
		pairs[i] = [2]string{left, right}
	}
	return pairs, nil
}

// isByte reports whether a piece stands for a byte: <0x0A>.
func isByte(s string) bool {
	return len(s) == 6 && strings.HasPrefix(s, "<0x") && s[5] == '>' && hex(s[3]) && hex(s[4])
}

func hex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

// prefixed reports whether text gets a space in front.
func prefixed(t *tokenizerJSON) bool {
	for _, s := range append(t.Normalizer.steps(), t.PreTokenizer.steps()...) {
		switch {
		case s.Type == "Prepend" && s.Prepend == "▁":
			return true
		case s.Type == "Metaspace":
			return s.PrependScheme == "always" || s.PrependScheme == "first" ||
				s.PrependScheme == "" && (s.AddPrefix == nil || *s.AddPrefix)
		}
	}
	return false
}

// template sets whether a text gets bos in front and eos behind, by the
// template for a single text.
func (v *Vocab) template(t *tokenizerJSON) {
	for _, s := range t.PostProcessor.steps() {
		if n := len(s.Single); s.Type == "TemplateProcessing" && n > 0 {
			first, last := s.Single[0].Special, s.Single[n-1].Special
			v.Flags["add_bos_token"], v.Flags["add_eos_token"] = first != nil, last != nil && n > 1
			v.roleOf("bos", first)
			if n > 1 {
				v.roleOf("eos", last)
			}
		}
	}
}

// roleOf gives a token of a template its role, unless it is known.
func (v *Vocab) roleOf(role string, special *struct {
	ID string `json:"id"`
}) {
	if special == nil {
		return
	}
	if id, ok := v.find(special.ID); ok {
		v.Special[role] = id
	}
}
