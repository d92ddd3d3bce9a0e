package hparams

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/gantry-ml/gantry/recovery"
)

// fields are the fields of a JSON object. The first error is kept; what is
// asked for after it is zero.
type fields struct {
	file  string
	raw   map[string]json.RawMessage
	wrong error
}

func parseFields(file string, data []byte) (*fields, error) {
	f := &fields{file: file}
	if err := json.Unmarshal(data, &f.raw); err != nil {
		return nil, f.fail("%w", err)
	}
	return f, nil
}

func (f *fields) fail(format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "read", File: f.file, Err: fmt.Errorf(format, args...)}
}

// get decodes the first of some fields that is there and not null.
func (f *fields) get(to any, names ...string) bool {
	for _, name := range names {
		raw, ok := f.raw[name]
		if !ok || string(raw) == "null" {
			continue
		}
		if err := json.Unmarshal(raw, to); err != nil && f.wrong == nil {
			f.wrong = f.fail("%s: %w", name, err)
		}
		return f.wrong == nil
	}
	return false
}

// count returns a whole number, 0 where none of the fields is there.
func (f *fields) count(names ...string) uint32 {
	var n float64 // some write 4096.0
	if !f.get(&n, names...) {
		return 0
	}
	if n < 0 || n > math.MaxInt32 || n != math.Trunc(n) {
		f.reject(names[0], n, "a whole number from 0 to 2^31-1")
		return 0
	}
	return uint32(n)
}

// number returns a finite number, 0 where none of the fields is there.
func (f *fields) number(names ...string) float64 {
	var x float64
	if !f.get(&x, names...) {
		return 0
	}
	if math.Abs(x) > math.MaxFloat32 {
		f.reject(names[0], x, "a number that fits an F32")
		return 0
	}
	return x
}

// numbers returns a list of numbers, nil where it is not there.
func (f *fields) numbers(name string) []float32 {
	var list []float32
	f.get(&list, name)
	return list
}

func (f *fields) reject(name string, value float64, want string) {
	if f.wrong == nil {
		f.wrong = f.fail("%s is %g, want %s", name, value, want)
	}
}

func (f *fields) text(names ...string) string {
	var s string
	f.get(&s, names...)
	return s
}

// sub returns the fields of an object in a field, none where it is not there.
func (f *fields) sub(names ...string) *fields {
	s := &fields{file: f.file}
	f.get(&s.raw, names...)
	return s
}
