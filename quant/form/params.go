package form

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
)

// params are what follows a form's name: KEY=VALUE, separated by commas. What
// is left out is 0, false or Invalid.
type params struct {
	values map[string]string
	err    error // of the first value that is not what it should be
}

func parseParams(s string) *params {
	p := &params{values: map[string]string{}}
	for _, kv := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(kv, "=")
		if _, twice := p.values[key]; !ok || twice || key == "" {
			p.fail("%.40q is not KEY=VALUE", kv)
		}
		p.values[key] = value
	}
	return p
}

func (p *params) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// take returns a value and forgets it, so that done finds the unknown ones.
func (p *params) take(key string) (string, bool) {
	v, ok := p.values[key]
	delete(p.values, key)
	return v, ok
}

// int returns a number from least on, 0 where it is left out.
func (p *params) int(key string, least int64) int64 {
	s, ok := p.take(key)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 40)
	if err != nil || n < least {
		p.fail("%s=%.20q: want a number from %d on", key, s, least)
		return least
	}
	return n
}

// float returns a finite F32.
func (p *params) float(key string) float32 {
	s, ok := p.take(key)
	if !ok {
		return 0
	}
	v, err := strconv.ParseFloat(s, 32)
	if err != nil || v-v != 0 {
		p.fail("%s=%.20q: want a number", key, s)
	}
	return float32(v)
}

// typ returns an element type, one of some; Invalid where it is left out.
func (p *params) typ(key string, among ...dtype.Type) dtype.Type {
	s, ok := p.take(key)
	if !ok {
		return dtype.Invalid
	}
	t, err := dtype.Parse(s)
	if err != nil || !slices.Contains(among, t) {
		p.fail("%s=%.20q: want one of %v", key, s, among)
	}
	return t
}

// done returns the first error, or names a key that nobody took.
func (p *params) done() error {
	if p.err == nil && len(p.values) > 0 {
		return fmt.Errorf("it has no parameter %.20q", slices.Sorted(maps.Keys(p.values))[0])
	}
	return p.err
}

// scaleTypes are those that scales are stored as.
var scaleTypes = []dtype.Type{dtype.F32, dtype.F16, dtype.BF16}

// spell writes a form's name with its parameters, without those that are 0. It
// is called for each of many weights.
func spell(name string, kv ...any) string {
	var buf [96]byte
	b := append(buf[:0], name...)
	b = append(b, ':')
	for i := 0; i < len(kv); i += 2 {
		before := len(b)
		if b[before-1] != ':' {
			b = append(b, ',')
		}
		b = fmt.Append(b, kv[i], "=")
		value := len(b)
		if b = fmt.Append(b, kv[i+1]); string(b[value:]) == "0" || string(b[value:]) == dtype.Invalid.String() {
			b = b[:before]
		}
	}
	return string(b)
}
