package rulesfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

func TestParse(t *testing.T) {
	want := []shard.ModuleRule{{Pattern: "*.wi", Rule: shard.Colwise}, {Pattern: "emb", Rule: shard.Vocab, Place: "embedding"}, {Pattern: "*.qkv", Rule: shard.QKV}}
	for name, text := range map[string]string{
		"yaml": "rules:\n  - {pattern: '*.wi', rule: colwise}\n  - pattern: emb\n    rule: vocab\n    place: embedding\n  - '*.qkv=qkv'\n",
		"json": "{\n\t\"rules\": [{\"pattern\": \"*.wi\", \"rule\": \"colwise\"}, {\"pattern\": \"emb\", \"rule\": \"vocab\", \"place\": \"embedding\"}, \"*.qkv=qkv\"]\n}\n",
	} {
		got, err := Parse(name, []byte(text))
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestRefused: each mistake is one clear line that names the file and the rule.
func TestRefused(t *testing.T) {
	for text, says := range map[string]string{
		"":                                       "no rules",
		"rules: []":                              "no rules",
		"rule: [x=colwise]":                      `unknown field "rule"`,
		"rules: [x]":                             `rules[0]: "x" has no =`,
		"rules: ['a=colwise', 'x=colwize']":      `rules[1]: "x": there is no rule "colwize" (choose one of [colwise`,
		"rules: [{pattern: x}]":                  `rules[0]: "x": there is no rule ""`,
		"rules: [{pattern: '[', rule: colwise}]": "rules[0]:",
		"rules: [{pattern: x, rule: qkv, at: y}]":        `rules[0]: unknown field "at"`,
		"rules: [{pattern: x, rule: vocab, place: top}]": `there is no place "top" (choose one of embedding, head, norm)`,
		"rules: [3]": "rules[0]:",
		"\t- x":      "found character that cannot start any token",
		"rules: ['" + strings.Repeat("a", 40<<10) + "=colwise']": "rules[0]",
		strings.Repeat(" ", maxBytes+1):                          "larger than",
	} {
		_, err := Parse("f.yaml", []byte(text))
		if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "f.yaml") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %v, want a usage error that says %q", text, err, says)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "r.yaml")
	if err := os.WriteFile(path, []byte("rules: ['*.wi=colwise']"), 0o600); err != nil {
		t.Fatal(err)
	}
	if rules, err := Read(path); err != nil || len(rules) != 1 {
		t.Errorf("%v, %v", rules, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("rules:\n  - {pattern: '*.wi', rule: colwise}\n")
	f.Add(`{"rules": ["a=qkv", {"pattern": "b", "rule": "vocab", "place": "head"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := Parse("f", []byte(text))
		if err == nil && shard.CheckRules(rules) != nil {
			t.Errorf("%q: rules that no plan takes: %v", text, rules)
		}
	})
}
