package quant

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// tuned is a scheme with parameters, which --quant writes after its name, as
// in custom:bits=3,group=64. Those that are left out keep their defaults.
type tuned interface {
	Scheme
	// with returns the scheme with one parameter set. It refuses a key or a
	// value that it does not know with what it wants instead.
	with(key, value string) (Scheme, error)
	// form writes the parameters with the values that they may have, and then
	// their defaults.
	form() (params, defaults string)
}

// tune sets the parameters "key=value,…" of s.
func tune(s Scheme, params string) (Scheme, error) {
	base := baseName(s)
	set := map[string]bool{}
	for _, p := range strings.Split(params, ",") {
		key, value, ok := strings.Cut(p, "=")
		t, can := s.(tuned)
		switch {
		case !can:
			return nil, recovery.Errorf(recovery.Usage, "scheme %s has no parameters", base)
		case !ok || set[key]:
			return nil, recovery.Errorf(recovery.Usage, "scheme %s: parameter %q: want each once, as in %s", base, p, form(t))
		}
		var err error
		if s, err = t.with(key, value); err != nil {
			return nil, recovery.Errorf(recovery.Usage, "scheme %s: parameter %s: %w", base, p, err)
		}
		set[key] = true
	}
	return s, nil
}

// baseName returns a scheme's name without parameters.
func baseName(s Scheme) string {
	base, _, _ := strings.Cut(s.Name(), ":")
	return base
}

// form returns how a scheme is written, with all its parameters, for people.
func form(s Scheme) string {
	t, ok := s.(tuned)
	if !ok {
		return s.Name()
	}
	params, defaults := t.form()
	return fmt.Sprintf("%s[:%s] (%s)", baseName(s), params, defaults)
}

// Forms returns how each scheme is written, for help texts: with its
// parameters, if it has any, and in brackets what they are when they are left
// out, as in "custom[:bits=2..8,symmetric=true|false,group=N] (4,true,128)".
func Forms() []string {
	forms := make([]string, len(schemes))
	for i, s := range schemes {
		forms[i] = form(s)
	}
	return forms
}

// parseInt reads a parameter that is a number.
func parseInt(s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("want a number from %d to %d", least, most)
	}
	return n, nil
}

// parseBool reads a parameter that is true or false.
func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, fmt.Errorf("want true or false")
	}
	return s == "true", nil
}
