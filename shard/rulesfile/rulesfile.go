package rulesfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// maxBytes bounds a file.
const maxBytes = 1 << 20

// Read reads a file. Errors are of class usage and name the file and the rule.
func Read(path string) ([]shard.ModuleRule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, wrong(path, "name a file that can be read", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, wrong(path, "name a file that can be read", err)
	}
	return Parse(path, data)
}

// Parse reads the contents of a file of the given name, YAML or JSON:
//
//	rules:                # the first that matches a tensor counts
//	  - {pattern: "*.dense_h_to_4h", rule: colwise}
//	  - {pattern: word_embeddings, rule: vocab, place: embedding}
//	  - "*.dense_4h_to_h=rowwise"
func Parse(name string, data []byte) ([]shard.ModuleRule, error) {
	if len(data) > maxBytes {
		return nil, wrong(name, "", fmt.Errorf("it is larger than %d bytes", maxBytes))
	}
	if !json.Valid(data) { // which may be indented by tabs, as YAML may not
		tree, err := yaml.Parser().Unmarshal(data)
		if err != nil {
			return nil, wrong(name, "write YAML or JSON", err)
		}
		if data, err = json.Marshal(tree); err != nil {
			return nil, wrong(name, "write YAML or JSON", err)
		}
	}
	var file struct {
		Rules []json.RawMessage `json:"rules"`
	}
	if err := strict(data, &file); err != nil {
		return nil, wrong(name, "write a list under the key rules", err)
	}
	if len(file.Rules) == 0 {
		return nil, wrong(name, "write a list under the key rules", errors.New("it has no rules"))
	}
	rules := make([]shard.ModuleRule, len(file.Rules))
	for i, item := range file.Rules {
		var err error
		if rules[i], err = parseRule(item); err != nil {
			return nil, wrong(name, hintOf(err), fmt.Errorf("rules[%d]: %w", i, causeOf(err)))
		}
	}
	if err := shard.CheckRules(rules); err != nil {
		return nil, wrong(name, hintOf(err), causeOf(err))
	}
	return rules, nil
}

// parseRule reads PATTERN=RULE, or a mapping.
func parseRule(item json.RawMessage) (shard.ModuleRule, error) {
	var text string
	if json.Unmarshal(item, &text) == nil {
		return shard.ParseModuleRule(text)
	}
	var r shard.ModuleRule
	if err := strict(item, &r); err != nil {
		return r, &recovery.Error{Class: recovery.Usage, Err: err, Hint: "write {pattern: …, rule: …, place: …} or PATTERN=RULE"}
	}
	return r, shard.CheckRules([]shard.ModuleRule{r})
}

// strict decodes JSON and refuses fields that nobody reads.
func strict(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// causeOf returns what an error says, without its place and hint.
func causeOf(err error) error {
	if e := (*recovery.Error)(nil); errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}

func hintOf(err error) string {
	if e := (*recovery.Error)(nil); errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// wrong is an error about the file.
func wrong(file, hint string, err error) error {
	return &recovery.Error{Class: recovery.Usage, Op: "read layout rules", File: file, Err: err, Hint: hint}
}
