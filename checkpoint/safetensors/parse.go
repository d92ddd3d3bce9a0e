package safetensors

import (
	"cmp"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// entry is a tensor as the header tells it, not checked.
type entry struct {
	name       string
	shape      []uint64
	begin, end uint64
	dtype      dtype.Type
	order      int32 // place in the header
}

type parser struct {
	scanner
	entries  []entry
	metadata map[string]string
	dims     []uint64   // backs shapes
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
		k := string(key)
		v, err := p.str()
		p.metadata[k] = string(v)
		return err
	})
}

// tensor reads a tensor's description: an object or, as the reference also
// takes it, an array of its three fields.
func (p *parser) tensor(name string) (err error) {
	if len(p.entries) == MaxTensors {
		return recovery.Errorf(recovery.Unsupported, "more than %d tensors in one file", MaxTensors)
	}
	e := entry{name: name, order: int32(len(p.entries))}
	var seen [3]bool
	field := func(i int) error {
		if seen[i] {
			return p.fail("tensor %q: %s is there twice", name, fields[i])
		}
		seen[i] = true
		switch i {
		case 0:
			e.dtype, err = p.dtype()
		case 1:
			e.shape, err = p.shape()
		case 2:
			e.begin, e.end, err = p.offsets()
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
				return p.fail("tensor %q: more than three fields", name)
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
			return p.fail("tensor %q: no %s", name, fields[i])
		}
	}
	p.entries = append(p.entries, e)
	return nil
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

func (p *parser) shape() ([]uint64, error) {
	// Dimensions that are allocated at once: never more than the text can hold.
	block := min(4096, len(p.b)/2)
	start := len(p.dims)
	err := p.array(func(i int) error {
		if i == MaxDimensions {
			return recovery.Errorf(recovery.Unsupported, "a tensor of more than %d dimensions", MaxDimensions)
		}
		d, err := p.uint()
		if len(p.dims) == cap(p.dims) {
			p.dims, start = append(make([]uint64, 0, max(block, len(p.dims)-start+1)), p.dims[start:]...), 0
		}
		p.dims = append(p.dims, d)
		return err
	})
	return p.dims[start:len(p.dims):len(p.dims)], err
}

func (p *parser) offsets() (begin, end uint64, err error) {
	n := 0
	err = p.array(func(i int) (err error) {
		switch n++; i {
		case 0:
			begin, err = p.uint()
		case 1:
			end, err = p.uint()
		default:
			err = p.fail("data_offsets of more than two numbers")
		}
		return err
	})
	if err == nil && n != 2 {
		err = p.fail("data_offsets of %d numbers, not two", n)
	}
	return begin, end, err
}

// latest drops all but the last description of each name, as the reference
// does.
func (p *parser) latest() []entry {
	if !p.repeats() {
		return p.entries
	}
	slices.SortFunc(p.entries, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(b.order, a.order))
	})
	return slices.CompactFunc(p.entries, func(a, b entry) bool { return a.name == b.name })
}

// repeats reports whether two descriptions may have the same name. Hashes are
// sorted many times faster than names, and hardly any file has a name twice.
func (p *parser) repeats() bool {
	hashes := make([]uint64, len(p.entries))
	for i := range p.entries {
		hashes[i] = xxh3.HashString(p.entries[i].name)
	}
	slices.Sort(hashes)
	for i := 1; i < len(hashes); i++ {
		if hashes[i] == hashes[i-1] {
			return true
		}
	}
	return false
}
