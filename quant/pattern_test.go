package quant

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/recovery"
)

func TestPattern(t *testing.T) {
	const down = "model.layers.1.mlp.down_proj.weight"
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{down, down, true},
		{"*.down_proj.weight", down, true},
		{"*.down_proj", down, true},    // the module
		{"model.layers.1", down, true}, // one further up
		{"model.layers.1", "model.layers.10.mlp.down_proj.weight", false},
		{"model.layers.?.mlp", down, true},
		{"model.layers.[0-3].*", down, true},
		{"model.layers.[!0-3].*", down, false},
		{"model.layers.[!0-3].*", "model.layers.4.mlp.down_proj.weight", true},
		{"*.{up,down}_proj.weight", down, true},
		{"*.{up,gate}_proj.weight", down, false},
		{"*", down, true},
		{"down_proj", down, false}, // no part in the middle
		{"*down_proj.weigh", down, false},
		{"mode", down, false},
		{"model?layers", down, true}, // a dot is a character
		{"a+b(c)", "a+b(c)", true},
		{"a+b", "aab", false},
		{`a\*`, "a*", true},
		{`a\*`, "ab", false},
		{"[a-]", "-", true},
		{"[^a]", "^", true}, // only ! negates
		{"[^a]", "b", false},
		{"größe.?", "größe.ß", true},
		{"[ä]", "ä", true},
		{"a", "a\nb", false},
		{"a.*", "a.\n", true},
		{"{,x}y", "y", true},
		{"a}", "a}", true},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		} else if got := p.Match(c.name); got != c.want {
			t.Errorf("%s matches %s: %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
	for _, bad := range []string{"", "[", "[]", "[!]", "a[b", "{a", "{a{b}}", `a\`, "[z-a]", strings.Repeat("a", maxPattern+1)} {
		if _, err := ParsePattern(bad); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%q: %v, want a usage error", bad, err)
		}
	}
}

// TestPatternNames: only a pattern without wildcards names one tensor.
func TestPatternNames(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"lm_head.weight", "lm_head.weight", true},
		{"lm_head", "lm_head.weight", false},
		{"lm_head.weigh?", "lm_head.weight", false},
		{`\*`, "*", false},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Names(c.name); got != c.want {
			t.Errorf("%s names %s: %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
}

// FuzzPattern: no pattern makes a panic; a name matches itself with its
// special characters escaped, and whatever matches a name matches what lies
// below it.
func FuzzPattern(f *testing.F) {
	f.Add("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight")
	f.Add("model.layers.[0-3]", "model.layers.3")
	f.Add("{a,b}[!c]?", "axy")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := ParsePattern(pattern)
		if err == nil && p.Match(name) && !p.Match(name+".weight") {
			t.Fatalf("%q matches %q but not what is in it", pattern, name)
		}
		if err != nil && recovery.ClassOf(err) != recovery.Usage {
			t.Fatalf("%q: %v", pattern, err)
		}
		escaped := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "{", `\{`).Replace(name)
		if len(escaped) > maxPattern || name == "" || !utf8.ValidString(name) {
			return
		}
		if p, err = ParsePattern(escaped); err != nil || !p.Match(name) {
			t.Fatalf("%q does not match the name %q that it escapes: %v", escaped, name, err)
		}
	})
}
