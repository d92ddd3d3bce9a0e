package configfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/internal/settings"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// Read reads a file. Errors are of class usage and name the file and the key.
func Read(path string) (quant.Config, error) {
	data, err := settings.Read(path)
	if err != nil {
		return quant.Config{}, wrong(path, "name a file that can be read", err)
	}
	return Parse(path, data)
}

// Parse reads the contents of a file of the given name:
//
//	scheme: q4_K_M        # a scheme or a recipe
//	symmetric: true       # of int8, int4, int2, custom and ort_nbits
//	group_size: 32        # values that share a scale; -1 is a row
//	keep_original: false
//	in_place: false
//	skip: [lm_head]       # patterns of what is kept as stored
//	overrides:            # the first that matches counts, after skip
//	  - {pattern: "*.down_proj", scheme: q6_K}
func Parse(name string, data []byte) (quant.Config, error) {
	fields, err := settings.Decode(data)
	if err != nil {
		return quant.Config{}, wrong(name, "write YAML or JSON", err)
	}
	var c quant.Config
	var skip []quant.Override
	r := reader{file: name}
	r.fields("", fields, map[string]func(key string, v any){
		"scheme":        func(key string, v any) { c.Scheme = r.text(key, v) },
		"symmetric":     func(key string, v any) { on := r.flag(key, v); c.Symmetric = &on },
		"group_size":    func(key string, v any) { c.GroupSize = r.count(key, v) },
		"keep_original": func(key string, v any) { c.KeepOriginal = r.flag(key, v) },
		"in_place":      func(key string, v any) { c.InPlace = r.flag(key, v) },
		"skip": func(key string, v any) {
			r.list(key, v, func(key string, v any) { skip = append(skip, quant.Override{Pattern: r.text(key, v), Scheme: "none"}) })
		},
		"overrides": func(key string, v any) {
			r.list(key, v, func(key string, v any) { c.Overrides = append(c.Overrides, r.override(key, v)) })
		},
	})
	if r.err != nil {
		return quant.Config{}, r.err
	}
	c.Overrides = append(skip, c.Overrides...)
	if err := c.Validate(); err != nil {
		return quant.Config{}, wrong(name, "", err)
	}
	return c, nil
}

// wrong is an error about the file.
func wrong(file, hint string, err error) error {
	if e, ok := err.(*recovery.Error); ok && e.Err != nil { // its place is the file's now
		err, hint = e.Err, e.Hint
		if e.Op != "" {
			err = fmt.Errorf("%s: %w", e.Op, e.Err)
		}
	}
	return &recovery.Error{Class: recovery.Usage, Op: "read quantization settings", File: file, Err: err, Hint: hint}
}

// reader takes values apart and keeps the first error.
type reader struct {
	file string
	err  error
}

func (r *reader) fail(hint, format string, args ...any) {
	if r.err == nil {
		r.err = wrong(r.file, hint, fmt.Errorf(format, args...))
	}
}

// fields hands each field below a key to its reader. Fields are taken in the
// order of their names, so that of several errors it is always the same one.
func (r *reader) fields(below string, fields map[string]any, read map[string]func(key string, v any)) {
	known := slices.Sorted(maps.Keys(read))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f, ok := read[name]
		if !ok {
			r.fail("want one of "+strings.Join(known, ", "), "unknown key %q", below+name)
			return
		}
		f(below+name, fields[name])
	}
}

func (r *reader) text(key string, v any) string {
	s, ok := v.(string)
	if !ok {
		r.fail("", "%s is %v, want a text", key, v)
	}
	return s
}

func (r *reader) flag(key string, v any) bool {
	b, ok := v.(bool)
	if !ok {
		r.fail("", "%s is %v, want true or false", key, v)
	}
	return b
}

func (r *reader) count(key string, v any) int {
	switch n := v.(type) {
	case int:
		return n
	case json.Number:
		if i, err := n.Int64(); err == nil && int64(int(i)) == i {
			return int(i)
		}
	}
	r.fail("", "%s is %v, want a whole number", key, v)
	return 0
}

func (r *reader) list(key string, v any, each func(key string, v any)) {
	list, ok := v.([]any)
	if !ok {
		r.fail("", "%s is %v, want a list", key, v)
	}
	for i, v := range list {
		each(fmt.Sprintf("%s[%d]", key, i), v)
	}
}

// override reads one of the overrides: a mapping, or PATTERN=SCHEME as the
// flag has it.
func (r *reader) override(key string, v any) (o quant.Override) {
	switch v := v.(type) {
	case string:
		o, err := quant.ParseOverride(v)
		if e := (*recovery.Error)(nil); errors.As(err, &e) {
			r.fail(e.Hint, "%s: %w", key, e.Err)
		}
		return o
	case map[string]any:
		for _, want := range []string{"pattern", "scheme"} {
			if _, ok := v[want]; !ok {
				r.fail("", "%s has no %s", key, want)
			}
		}
		r.fields(key+".", v, map[string]func(string, any){
			"pattern": func(key string, v any) { o.Pattern = r.text(key, v) },
			"scheme":  func(key string, v any) { o.Scheme = r.text(key, v) },
		})
		return o
	}
	r.fail("", "%s is %v, want a pattern and a scheme", key, v)
	return o
}
