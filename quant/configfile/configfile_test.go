package configfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/internal/settings"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

func TestParse(t *testing.T) {
	no := false
	whole := quant.Config{Scheme: "int4", Symmetric: &no, GroupSize: 32, KeepOriginal: true, InPlace: true, Overrides: []quant.Override{
		{Pattern: "lm_head", Scheme: "none"}, {Pattern: "*.layers.0", Scheme: "none"},
		{Pattern: "*.down_proj", Scheme: "q6_K"}, {Pattern: "*.up_proj", Scheme: "custom:bits=3,symmetric=true,group=32"}}}
	for name, c := range map[string]struct {
		text string
		want quant.Config
	}{
		"yaml": {`
scheme: int4
symmetric: false
group_size: 32
keep_original: true
in_place: true
overrides:
  - {pattern: "*.down_proj", scheme: q6_K}
  - "*.up_proj=custom:bits=3,symmetric=true,group=32"
skip: [lm_head, "*.layers.0"]
`, whole},
		"json, by tabs": {"{\t\"scheme\": \"int4\", \"symmetric\": false, \"group_size\": 32, \"keep_original\": true, \"in_place\": true,\n" +
			"\t\"skip\": [\"lm_head\", \"*.layers.0\"],\n\t\"overrides\": [{\"pattern\": \"*.down_proj\", \"scheme\": \"q6_K\"},\n" +
			"\t\"*.up_proj=custom:bits=3,symmetric=true,group=32\"]}", whole},
		"a recipe":             {"scheme: q4_K_M", quant.Config{Scheme: "q4_K_M"}},
		"a row":                {"scheme: int4\ngroup_size: -1", quant.Config{Scheme: "int4", GroupSize: -1}},
		"nothing":              {"", quant.Config{}},
		"overrides alone":      {"overrides: ['*=f16']", quant.Config{Overrides: []quant.Override{{Pattern: "*", Scheme: "f16"}}}},
		"flow that is no json": {"{scheme: q8_0}", quant.Config{Scheme: "q8_0"}},
	} {
		got, err := Parse("q.yaml", []byte(c.text))
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"schema: q8_0":                `unknown key "schema"`,
		"scheme: q9":                  "q8_0",
		"scheme: 8":                   "scheme is 8",
		"symmetric: maybe":            "symmetric is maybe",
		"group_size: many":            "group_size",
		"group_size: 1.5":             "group_size",
		`{"group_size": 1.5}`:         "group_size",
		`{"group_size": 1e30}`:        "group_size",
		"scheme: q8_0\ngroup_size: 8": "q8_0",
		"overrides: '*=f16'":          "overrides is",
		"overrides: [3]":              "overrides[0]",
		"overrides: ['*']":            "overrides[0]",
		"overrides: [{pattern: a, scheme: f16}, {pattern: a, schema: f16}]": "overrides[1] has no scheme",
		"overrides: [{pattern: a, scheme: f16, why: x}]":                    `unknown key "overrides[0].why"`,
		"overrides: [{pattern: a, scheme: q4_K_M}]":                         "recipe",
		"skip: ['[']":                            "bracket",
		"skip: [{}]":                             "skip[0]",
		"scheme: q8_0\nscheme: f16":              "scheme",
		"- q8_0":                                 "",
		"a: &a [*a]":                             "",
		"{":                                      "",
		strings.Repeat("#", settings.MaxBytes+1): "larger",
	} {
		_, err := Parse("dir/q.yaml", []byte(text))
		if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "dir/q.yaml") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want one line of class usage that names the file and says %q", text, err, says)
		}
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.yaml")
	if err := os.WriteFile(path, []byte("scheme: int8"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Read(path); err != nil || c.Scheme != "int8" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Read(path + ".not"); recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want a usage error that names the file", err)
	}
}

// FuzzParse: whatever a file holds, it is settings that pass Validate, or one
// line of class usage.
func FuzzParse(f *testing.F) {
	f.Add([]byte("scheme: int4\nsymmetric: false\ngroup_size: 32\nskip: [lm_head]\noverrides:\n  - {pattern: '*', scheme: f16}"))
	f.Add([]byte(`{"scheme": "q4_K_M", "overrides": ["*.q_proj=q8_0"], "in_place": true}`))
	f.Add([]byte("a: &a\n  - *a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("q.yaml", data)
		switch {
		case err != nil && (recovery.ClassOf(err) != recovery.Usage || strings.Contains(err.Error(), "\n")):
			t.Fatalf("%v", err)
		case err == nil && c.Validate() != nil:
			t.Fatalf("%+v: %v", c, c.Validate())
		}
	})
}
