package vocab

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// side is what stands beside the tokenizer itself.
type side struct {
	config   configJSON
	added    map[string]int // added_tokens.json
	template string         // chat_template.jinja
}

// configJSON is what is read of a tokenizer_config.json.
type configJSON struct {
	Added     map[int]addedToken `json:"added_tokens_decoder"`
	AddBOS    *bool              `json:"add_bos_token"`
	AddEOS    *bool              `json:"add_eos_token"`
	AddPrefix *bool              `json:"add_prefix_space"`
	BOS       tokenName          `json:"bos_token"`
	EOS       tokenName          `json:"eos_token"`
	Unk       tokenName          `json:"unk_token"`
	Sep       tokenName          `json:"sep_token"`
	Pad       tokenName          `json:"pad_token"`
	CLS       tokenName          `json:"cls_token"`
	Mask      tokenName          `json:"mask_token"`
	Template  chatTemplate       `json:"chat_template"`
}

// addedToken is a token that was added to a tokenizer.
type addedToken struct {
	ID      int    `json:"id"`
	Content string `json:"content"`
	Special bool   `json:"special"`
}

// tokenName is a token's text, which is written as a string or as an object.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*n = tokenName(s)
		return nil
	}
	var o struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(b, &o)
	*n = tokenName(o.Content)
	return err
}

// chatTemplate is the text of a template, or of the one that is called
// "default" in a list of several.
type chatTemplate string

func (c *chatTemplate) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*c = chatTemplate(s)
		return nil
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for _, t := range list {
		if t.Name == "default" {
			*c = chatTemplate(t.Template)
		}
	}
	return nil
}

func parseSide(files map[string][]byte) (side, error) {
	s := side{template: string(files[chatTemplateFile])}
	for name, to := range map[string]any{tokenizerConfig: &s.config, addedTokensFile: &s.added} {
		if b := files[name]; b != nil {
			if err := json.Unmarshal(b, to); err != nil {
				return s, invalid(name, "%w", err)
			}
		}
	}
	return s, nil
}

// complete adds what stands beside the tokenizer, and fills the vocabulary up
// to rows tokens.
func (v *Vocab) complete(s side, config []byte, rows int64) error {
	v.ChatTemplate = string(s.config.Template)
	if s.template != "" { // the newer place
		v.ChatTemplate = s.template
	}
	if v.Kind == None {
		return nil
	}
	// Sorted, so that the same files give the same vocabulary.
	for _, text := range slices.Sorted(maps.Keys(s.added)) {
		if err := v.add(addedTokensFile, addedToken{ID: s.added[text], Content: text}); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.config.Added)) {
		t := s.config.Added[id]
		t.ID = id
		if err := v.add(tokenizerConfig, t); err != nil {
			return err
		}
	}
	if n := int64(len(v.Tokens)); n > rows && rows > 0 {
		return invalid(v.file, "it has %d tokens, but the embedding only %d rows", n, rows)
	} else if rows > n {
		if err := v.grow(v.file, int(rows-1)); err != nil {
			return err
		}
	}
	return v.special(s.config, config)
}

// add gives an id to an added token.
func (v *Vocab) add(file string, t addedToken) error {
	if err := v.grow(file, t.ID); err != nil {
		return err
	}
	old := &v.Tokens[t.ID]
	switch {
	case old.Text != t.Content:
		*old = Token{Text: t.Content, Score: addedScore}
	case old.Type == Control || old.Type == Unknown || old.Type == Byte:
		return nil // the tokenizer has said so itself
	}
	switch {
	case t.Special || looksSpecial(t.Content):
		old.Type = Control
	case v.Kind == BPE:
		old.Type = UserDefined
	default:
		// llama.cpp looks for these before it turns spaces into ▁.
		old.Text, old.Type = strings.ReplaceAll(t.Content, "▁", " "), UserDefined
	}
	return nil
}

// addedScore is that of added tokens, which are never merged to.
const addedScore = -1000

// looksSpecial reports whether a token has one of the forms that only control
// tokens have, for tokenizers that do not mark theirs.
func looksSpecial(text string) bool {
	return strings.HasPrefix(text, "<|") && strings.HasSuffix(text, "|>") ||
		strings.HasPrefix(text, "<｜") && strings.HasSuffix(text, "｜>") ||
		text == "<pad>" || text == "<mask>"
}

// special sets the special ids and flags: as tokenizer_config.json says; else
// as the tokenizer; else as config.json.
func (v *Vocab) special(c configJSON, config []byte) error {
	var ids struct {
		BOS tokenIDs `json:"bos_token_id"`
		EOS tokenIDs `json:"eos_token_id"`
		Pad tokenIDs `json:"pad_token_id"`
	}
	if config != nil {
		if err := json.Unmarshal(config, &ids); err != nil {
			return invalid("config.json", "%w", err)
		}
	}
	for _, r := range []struct {
		role string
		name tokenName
		ids  tokenIDs
	}{
		{"bos", c.BOS, ids.BOS}, {"eos", c.EOS, ids.EOS}, {"unknown", c.Unk, nil}, {"seperator", c.Sep, nil},
		{"padding", c.Pad, ids.Pad}, {"cls", c.CLS, nil}, {"mask", c.Mask, nil},
	} {
		if id, ok := v.find(string(r.name)); ok && r.name != "" {
			v.Special[r.role] = id
			continue
		}
		if _, said := v.Special[r.role]; !said && len(r.ids) > 0 && r.ids[0] >= 0 && r.ids[0] < len(v.Tokens) {
			v.Special[r.role] = r.ids[0]
		}
	}
	for flag, on := range map[string]*bool{"add_bos_token": c.AddBOS, "add_eos_token": c.AddEOS, "add_space_prefix": c.AddPrefix} {
		if on != nil && (flag != "add_space_prefix" || v.Kind != BPE) {
			v.Flags[flag] = *on
		}
	}
	return nil
}

// tokenIDs is an id or a list of them; null is none.
type tokenIDs []int

func (t *tokenIDs) UnmarshalJSON(b []byte) error {
	var one *int
	if json.Unmarshal(b, &one) == nil {
		*t = nil
		if one != nil {
			*t = tokenIDs{*one}
		}
		return nil
	}
	var many []int
	err := json.Unmarshal(b, &many)
	*t = slices.Clip(many)
	return err
}
