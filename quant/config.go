package quant

import (
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Config asks for a quantization. The zero value keeps tensors as they are
// stored.
type Config struct {
	// Scheme is a scheme as Parse reads it or a recipe as ParseRecipe does; ""
	// is "none".
	Scheme string
	// Symmetric and GroupSize are the parameters of schemes that have them:
	// {Scheme: "int4", GroupSize: 32} is custom:bits=4,symmetric=true,group=32.
	// nil and 0 leave them as the scheme has them; a GroupSize of -1 is a row.
	Symmetric *bool
	GroupSize int
	// KeepOriginal keeps the stored elements beside what they become.
	KeepOriginal bool
	// InPlace keeps staging memory least, at some cost in time: where rows
	// cannot be transformed straight into the arena (they are cut afterwards,
	// or decoded before), one is at a time, not a group of them, and no staging
	// memory is made ready beforehand. A whole copy of what was read is never
	// made, with it or without. It changes no byte.
	InPlace bool
	// Overrides say what tensors become by their names; the first that matches
	// counts.
	Overrides []Override
}

// integers are the schemes without parameters that custom has more general
// forms of, as custom writes them.
var integers = map[string]custom{
	"int8": {packed{bits: 8, symmetric: true, group: 0}},
	"int4": {packed{bits: 4, symmetric: true, group: defaultGroup}},
	"int2": {packed{bits: 2, symmetric: true, group: defaultGroup}},
}

// defaultGroup is how many values share a scale in int4 and int2.
const defaultGroup = 128

// Resolve returns the name of the scheme or recipe that c comes to, with its
// parameters. Errors are of class usage.
func (c Config) Resolve() (string, error) {
	name := c.Scheme
	if name == "" {
		name = "none"
	}
	plain := c.Symmetric == nil && c.GroupSize == 0
	if _, ok := ParseRecipe(name); ok {
		if !plain {
			return "", refuse(name, "it is a mixture of ggml's types, whose blocks are as they are")
		}
		return name, nil
	}
	s, err := Parse(name)
	if err != nil {
		return "", err
	}
	if plain {
		return s.Name(), nil
	}
	if c.GroupSize < -1 {
		return "", refuse(name, fmt.Sprintf("a group of %d values makes no sense", c.GroupSize))
	}
	if i, ok := integers[name]; ok {
		set := i
		if c.Symmetric != nil {
			set.symmetric = *c.Symmetric
		}
		if c.GroupSize != 0 {
			set.group = max(c.GroupSize, 0)
		}
		if set == i {
			return name, nil
		}
		return canonical(set.Name()) // which checks the group
	}
	t, ok := s.(tuned)
	if !ok {
		return "", refuse(name, "it has no parameters")
	}
	return canonical(name + c.parameters(name, t))
}

// parameters writes c's parameters as they follow a scheme's name.
func (c Config) parameters(name string, t tuned) string {
	var params []string
	if c.Symmetric != nil {
		params = append(params, fmt.Sprintf("symmetric=%t", *c.Symmetric))
	}
	if c.GroupSize != 0 {
		key := "group"
		if known, _ := t.form(); strings.HasPrefix(known, "block=") { // what MatMulNBits calls it
			key = "block"
		}
		params = append(params, fmt.Sprintf("%s=%d", key, max(c.GroupSize, 0)))
	}
	sep := ":"
	if strings.Contains(name, ":") {
		sep = ","
	}
	return sep + strings.Join(params, ",")
}

// canonical returns the full name of a scheme that is written with parameters.
func canonical(name string) (string, error) {
	s, err := Parse(name)
	if err != nil {
		return "", err
	}
	return s.Name(), nil
}

func refuse(scheme, why string) error {
	return &recovery.Error{Class: recovery.Usage, Op: "quantize to " + scheme,
		Err:  fmt.Errorf("symmetric and group size cannot be set: %s", why),
		Hint: "use int8, int4, int2 or custom:bits=B"}
}

// Validate reports, with class usage, what Resolve and the overrides refuse.
func (c Config) Validate() error {
	if _, err := c.Resolve(); err != nil {
		return err
	}
	return CheckOverrides(c.Overrides)
}
