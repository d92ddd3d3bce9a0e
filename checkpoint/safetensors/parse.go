package safetensors

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

type parser struct {
	scanner
	budget   header.Budget
	tensors  []Tensor // see Header.layout
	metadata map[string]string
	dims     []int64    // backs shapes
	recent   dtype.Type // that was named: most tensors have the same
}

// file reads the whole header.
func (p *parser) file() error {
	seen := false
	err := p.object(func(key []byte) error {
		if string(key) != metadataKey {
			return p.tensor(string(key))
		}
		if seen {
			return p.fail("%s is there twice", metadataKey)
		}
		seen = true
		return p.strings()
	})
	if err != nil {
		return err
	}
	return p.end()
}

// strings reads the metadata: a map of strings or null. A key that is there
// twice counts as the last says.
func (p *parser) strings() error {
	if p.peek() == 'n' {
		return p.literal("null")
	}
	p.metadata = map[string]string{}
	return p.object(func(key []byte) error {
		if len(p.metadata) == MaxMetadata {
			return recovery.Errorf(recovery.Unsupported, "more than %d keys of metadata", MaxMetadata)
		}
		v, err := p.str()
		if err != nil {
			return err
		}
		p.metadata[string(key)] = string(v)
		return cmp.Or(p.budget.Entry(), p.budget.Text(len(key)), p.budget.Text(len(v)))
	})
}

// tensor reads a tensor's description: an object or, as the reference also
// takes it, an array of its three fields.
func (p *parser) tensor(name string) (err error) {
	if len(p.tensors) == MaxTensors {
		return recovery.Errorf(recovery.Unsupported, "more than %d tensors in one file", MaxTensors)
	}
	t := Tensor{Name: name}
	var seen [3]bool
	field := func(i int) error {
		if seen[i] {
			return p.fail("tensor %.80q: %s is there twice", name, fields[i])
		}
		seen[i] = true
		switch i {
		case 0:
			t.DType, err = p.dtype()
		case 1:
			t.Shape, err = p.shape()
		case 2:
			t.Offset, t.Bytes, err = p.offsets()
		}
		return err
	}
	switch p.peek() {
	case '{':
		err = p.object(func(key []byte) error {
			for i, f := range fields {
				if string(key) == f {
					return field(i)
				}
			}
			return p.skip(3)
		})
	case '[':
		err = p.array(func(i int) error {
			if i >= len(fields) {
				return p.fail("tensor %.80q: more than three fields", name)
			}
			return field(i)
		})
	default:
		err = p.unexpected("the description of a tensor")
	}
	if err != nil {
		return err
	}
	for i, ok := range seen {
		if !ok {
			return p.fail("tensor %.80q: no %s", name, fields[i])
		}
	}
	p.tensors = append(p.tensors, t)
	return cmp.Or(p.budget.Tensor(), p.budget.Text(len(name)), p.budget.Shape(len(t.Shape)))
}

var fields = [3]string{"dtype", "shape", "data_offsets"}

// dtype reads a type's name. The reference's generated parser also takes
// {"F32": null}.
func (p *parser) dtype() (t dtype.Type, err error) {
	if p.peek() != '{' {
		return p.dtypeName(p.str())
	}
	n := 0
	err = p.object(func(key []byte) error {
		if n++; n > 1 {
			return p.fail("a dtype with more than one name")
		}
		if t, err = p.dtypeName(key, nil); err != nil {
			return err
		}
		return p.literal("null")
	})
	if err == nil && n == 0 {
		err = p.fail("a dtype without a name")
	}
	return t, err
}

func (p *parser) dtypeName(name []byte, err error) (dtype.Type, error) {
	if err != nil {
		return dtype.Invalid, err
	}
	if p.recent != dtype.Invalid && string(name) == p.recent.String() {
		return p.recent, nil
	}
	t, err := dtype.Parse(string(name))
	if err != nil || !t.Safetensors() {
		return dtype.Invalid, p.fail("%q is no element type of safetensors", name)
	}
	p.recent = t
	return t, nil
}

// shape reads dimensions, unsigned ones, in memory that many shapes share.
func (p *parser) shape() ([]int64, error) {
	// Dimensions that are allocated at once: never more than the text can hold.
	block := min(4096, len(p.b)/2)
	start := len(p.dims)
	err := p.array(func(i int) error {
		if i == MaxDimensions {
			return recovery.Errorf(recovery.Unsupported, "a tensor of more than %d dimensions", MaxDimensions)
		}
		d, err := p.uint()
		if len(p.dims) == cap(p.dims) {
			p.dims, start = append(make([]int64, 0, max(block, len(p.dims)-start+1)), p.dims[start:]...), 0
		}
		p.dims = append(p.dims, int64(d))
		return err
	})
	return p.dims[start:len(p.dims):len(p.dims)], err
}

// offsets reads data_offsets. What is over 2^63-1 is behind the end of any
// file, and so is that.
func (p *parser) offsets() (begin, end int64, err error) {
	n := 0
	err = p.array(func(i int) (err error) {
		if n++; n > 2 {
			return p.fail("data_offsets of more than two numbers")
		}
		v, err := p.uint()
		begin, end = end, int64(min(v, math.MaxInt64))
		return err
	})
	if err == nil && n != 2 {
		err = p.fail("data_offsets of %d numbers, not two", n)
	}
	return begin, end, err
}

// latest drops all but the last description of each name, as the reference
// does.
func (p *parser) latest() []Tensor {
	if _, twice := header.Twice(p.tensors); !twice {
		return p.tensors
	}
	slices.Reverse(p.tensors)
	slices.SortStableFunc(p.tensors, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(p.tensors, func(a, b Tensor) bool { return a.Name == b.Name })
}
