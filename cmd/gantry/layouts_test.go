package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/internal/testmodels"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// TestQuantizeLayouts: no layout changes a byte of what is written, with
// experts, rules and padding too.
func TestQuantizeLayouts(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte("rules: ['*.{q_proj,query,c_fc}=rowwise', '*.w2=replicated', '*experts*=rowwise']"), 0o600); err != nil {
		t.Fatal(err)
	}
	for family, experts := range testmodels.Families() {
		dir := testmodels.Write(t, family, false)
		layouts := []string{"", "--tp 2", "--tp 4 --pad-vocab", "--tp 2 --dp 2 --rules " + rules}
		if experts {
			layouts = append(layouts, "--ep 2", "--ep 4 --tp 2 --dp 2", "--tp 2 --ep 2 --pad-vocab=8 --rules "+rules)
		}
		files := map[string]string{"int8": "model.safetensors", "none": "model.safetensors"}
		if family == "mixtral" { // whose config.json has all that GGUF wants
			files["q8_0"], files["q4_K_M"] = "model.gguf", "model.gguf"
		}
		for scheme, name := range files {
			var first []byte
			for _, layout := range layouts {
				out := filepath.Join(t.TempDir(), name)
				args := append([]string{"quantize", dir, "--to", scheme, "--out", out}, strings.Fields(layout)...)
				if code, _, stderr := gantry(t, args...); code != exit.Done {
					t.Fatalf("%s as %s %s: exit %d: %s", family, scheme, layout, code, stderr)
				}
				got, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = got
				}
				if !bytes.Equal(first, got) {
					t.Errorf("%s as %s: %s changes the file", family, scheme, layout)
				}
			}
		}
	}
}

// TestLoadExperts: a report says where in the layout each rank is; rules are
// part of what was asked for, and of the plan's digest.
func TestLoadExperts(t *testing.T) {
	dir := testmodels.Write(t, "mixtral", false)
	rules := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(rules, []byte(`{"rules": [{"pattern": "*.k_proj", "rule": "replicated"}, "*.nothing=qkv"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := mustJSON[messages.Job](t, "load", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--once")
	for i, r := range plain.Ranks {
		if got := (shard.Layout{TP: 2, EP: 2, DP: 2}).Rank(r.DP, r.PP, r.EP, r.TP); got != i || r.Rank != i {
			t.Errorf("rank %d stands at %+v", i, r)
		}
	}
	if len(plain.Ranks) != 8 || plain.ReadAmplification != 1 {
		t.Errorf("%d ranks, read amplification %g", len(plain.Ranks), plain.ReadAmplification)
	}
	ruled := mustJSON[messages.Job](t, "load", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--rules", rules, "--once")
	planned := mustJSON[shard.Plan](t, "plan", dir, "--tp", "2", "--ep", "2", "--dp", "2", "--rules", rules)
	if ruled.Plan == plain.Plan || len(ruled.Options.Rules) != 2 || len(planned.Options.Rules) != 2 {
		t.Errorf("plan %s, without rules %s; options %+v", ruled.Plan, plain.Plan, ruled.Options)
	}
	if len(ruled.Warnings) != 1 || !strings.Contains(ruled.Warnings[0], "*.nothing=qkv") {
		t.Errorf("warnings %q", ruled.Warnings)
	}
	if code, stdout, _ := gantry(t, "plan", dir, "--ep", "4"); code != exit.Done || !strings.Contains(stdout, "EP") || !strings.Contains(stdout, "layout     ep4") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}
