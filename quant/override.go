package quant

import (
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Override says what tensors become whose names match a pattern, whatever the
// scheme is for. "none" keeps them as they are stored.
type Override struct {
	Pattern string `json:"pattern"` // as ParsePattern reads it
	Scheme  string `json:"scheme"`  // as Parse reads it
}

// Limits of a list of overrides: they travel in control messages, which are
// bounded.
const (
	MaxOverrides     = 256
	maxOverrideBytes = 16 << 10
)

// ParseOverride reads PATTERN=SCHEME, as --quant-override writes it.
func ParseOverride(s string) (Override, error) {
	// The first one: a scheme's parameters have = too.
	pattern, scheme, ok := strings.Cut(s, "=")
	if !ok {
		return Override{}, &recovery.Error{Class: recovery.Usage, Op: "read override",
			Err: fmt.Errorf("%.60q has no =", s), Hint: "write PATTERN=SCHEME, such as *.down_proj.weight=q6_K"}
	}
	o := Override{pattern, scheme}
	_, _, err := o.Compile()
	return o, err
}

// String returns o as ParseOverride reads it.
func (o Override) String() string { return o.Pattern + "=" + o.Scheme }

// Compile returns what o's pattern and scheme stand for. Errors are of class
// usage.
func (o Override) Compile() (Pattern, Scheme, error) {
	p, err := ParsePattern(o.Pattern)
	if err != nil {
		return p, nil, err
	}
	if _, ok := ParseRecipe(o.Scheme); ok {
		return p, nil, &recovery.Error{Class: recovery.Usage, Op: "read override",
			Err:  fmt.Errorf("%s: a recipe chooses for the whole model, not for some tensors", o),
			Hint: "name the type that they should become, such as q6_K"}
	}
	s, err := Parse(o.Scheme)
	if err != nil {
		return p, nil, err
	}
	if HasOriginal(s) {
		return p, nil, &recovery.Error{Class: recovery.Usage, Op: "read override",
			Err: fmt.Errorf("%s is not a scheme of its own", o.Scheme), Hint: "ask for the scheme alone and for keep_original"}
	}
	return p, s, nil
}

// CheckOverrides reports, with class usage, a list that is too long or has an
// override that cannot be read.
func CheckOverrides(list []Override) error {
	size := 0
	for _, o := range list {
		if _, _, err := o.Compile(); err != nil {
			return err
		}
		size += len(o.Pattern) + len(o.Scheme)
	}
	if len(list) > MaxOverrides || size > maxOverrideBytes {
		return &recovery.Error{Class: recovery.Usage, Op: "read overrides",
			Err:  fmt.Errorf("%d overrides of %d bytes: at most %d of %d are allowed", len(list), size, MaxOverrides, maxOverrideBytes),
			Hint: "write fewer, wider patterns"}
	}
	return nil
}
