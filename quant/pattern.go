package quant

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/recovery"
)

// Pattern is a glob over the dotted names of tensors. It matches a tensor
// whose whole name it describes, or the name of a module that holds it: both
// "lm_head" and "lm_head.weight" match lm_head.weight, and "model.layers.1"
// matches all of that layer and nothing of layer 10.
//
//   - any run of characters, dots too
//     ?      one character
//     [0-3]  one of these characters; [!0-3] one that is none of them
//     {q,k}  one of these; no braces within braces
//     \*     the character itself
//
// A star takes dots too, so that *.down_proj needs no count of the modules
// before it. Matching takes time linear in the name, whatever the pattern.
type Pattern struct {
	text  string
	exact bool // it has no wildcard
	re    *regexp.Regexp
}

// maxPattern bounds a pattern's length, in bytes: it is compiled, and it
// travels in every message that carries a plan's options.
const maxPattern = 512

// ParsePattern reads a pattern. Errors are of class usage.
func ParsePattern(s string) (Pattern, error) {
	expr, exact, err := globRegexp(s)
	if err == nil && len(s) > maxPattern {
		err = fmt.Errorf("it has %d bytes, at most %d are allowed", len(s), maxPattern)
	}
	if err == nil {
		var re *regexp.Regexp
		if re, err = regexp.Compile(`^(?s:` + expr + `(?:\..*)?)$`); err == nil {
			return Pattern{s, exact, re}, nil
		}
	}
	return Pattern{}, &recovery.Error{Class: recovery.Usage, Op: "read pattern", Err: fmt.Errorf("%.60q: %w", s, err),
		Hint: `write a glob over tensor names, such as *.down_proj.weight or model.layers.[0-3]`}
}

// Match reports whether the pattern matches a tensor's name.
func (p Pattern) Match(tensor string) bool { return p.re.MatchString(tensor) }

// Names reports whether the pattern is this very name: what its author meant
// is this one tensor.
func (p Pattern) Names(tensor string) bool { return p.exact && p.text == tensor }

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }

// globRegexp translates a glob into a regular expression, and reports whether
// it holds literal characters only.
func globRegexp(glob string) (expr string, exact bool, err error) {
	switch {
	case glob == "":
		return "", false, errors.New("it is empty")
	case !utf8.ValidString(glob):
		return "", false, errors.New("it is not UTF-8")
	}
	var out strings.Builder
	exact = !strings.ContainsAny(glob, `*?[{\`)
	braces := false
	for rest := []rune(glob); len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch {
		case c == '*':
			out.WriteString(".*")
		case c == '?':
			out.WriteByte('.')
		case c == '[':
			n, err := globClass(&out, rest)
			if err != nil {
				return "", false, err
			}
			rest = rest[n:]
		case c == '{' && braces:
			return "", false, errors.New("a brace within braces")
		case c == '{':
			braces = true
			out.WriteString("(?:")
		case c == '}' && braces:
			braces = false
			out.WriteByte(')')
		case c == ',' && braces:
			out.WriteByte('|')
		case c == '\\' && len(rest) == 0:
			return "", false, errors.New("nothing follows its last backslash")
		case c == '\\':
			out.WriteString(regexp.QuoteMeta(string(rest[0])))
			rest = rest[1:]
		default:
			out.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	if braces {
		return "", false, errors.New("a brace is not closed")
	}
	return out.String(), exact, nil
}

// globClass translates what follows a [ and returns how much of it that was.
func globClass(out *strings.Builder, s []rune) (n int, err error) {
	n = slices.Index(s, ']')
	if n < 0 {
		return 0, errors.New("a bracket is not closed")
	}
	body := s[:n]
	out.WriteByte('[')
	if n > 0 && body[0] == '!' {
		out.WriteByte('^')
		body = body[1:]
	}
	if len(body) == 0 {
		return 0, errors.New("its brackets are empty")
	}
	for i, c := range body {
		// Between two characters a hyphen is a range, as in the expression.
		if c == '-' && i > 0 && i < len(body)-1 {
			out.WriteByte('-')
		} else {
			fmt.Fprintf(out, `\x{%x}`, c)
		}
	}
	out.WriteByte(']')
	return n + 1, nil
}
