package form

import (
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
)

// Form is how one tensor, seen as rows × cols, lies in its checkpoint.
type Form interface {
	// Parts are the stored arrays. The first is the weight itself: what runs
	// along its units are the tensor's rows, or its columns, all of each.
	Parts() []Part
	// Type is the element type of what Read gives: F32, where values are
	// worked out, else the stored type.
	Type() dtype.Type
	// Read writes rows of the tensor, some columns of each, row-major, to dst.
	// from holds what Parts' Range says that they need, part by part. cols are
	// all of them where the first part's units are rows, and rows are all of
	// them where its units are columns.
	Read(dst []byte, from []Slab, rows, cols Range)
}

// Range is [Start, Stop).
type Range struct{ Start, Stop int64 }

// Len returns Stop - Start.
func (r Range) Len() int64 { return r.Stop - r.Start }

// Axis is what the units of a stored array run along.
type Axis uint8

// The axes.
const (
	Rows  Axis = iota
	Cols       // columns
	Whole      // neither: all of the tensor needs all of the array
)

// Part is one stored array: Units units of Unit bytes each. Unit i holds what
// rows, or columns, [i × Per, (i+1) × Per) need.
type Part struct {
	Axis  Axis
	Per   int64
	Unit  int64
	Units int64
	// What the elements of a unit run along, where it is the other axis: each is
	// for Each of them. Each is 0 where it is none.
	Across Axis
	Each   int64
}

// Bytes returns the array's size.
func (p Part) Bytes() int64 { return p.Unit * p.Units }

// Range returns the units that some rows and columns of the tensor need.
func (p Part) Range(rows, cols Range) Range {
	r := rows
	switch p.Axis {
	case Cols:
		r = cols
	case Whole:
		return Range{0, p.Units}
	}
	return Range{r.Start / p.Per, min((r.Stop+p.Per-1)/p.Per, p.Units)}
}

// Slab is a run of a part's units: Data begins with unit First.
type Slab struct {
	Data  []byte
	First int64
}

// unit returns the bytes of a unit of size bytes.
func (s Slab) unit(i, size int64) []byte {
	at := (i - s.First) * size
	return s.Data[at : at+size]
}

// Open returns the form with the given name of a tensor of rows × cols, whose
// first part has elements of type stored. "" is plain rows: nil. It fails
// where the tensor cannot have this form.
func Open(name string, stored dtype.Type, rows, cols int64) (Form, error) {
	if name == "" {
		return nil, nil
	}
	base, param, _ := strings.Cut(name, ":")
	open, ok := forms[base]
	if !ok {
		return nil, fmt.Errorf("unknown form %.40q", name)
	}
	if n, err := dtype.Elements([]int64{rows, cols}); err != nil || n > maxElements {
		return nil, fmt.Errorf("form %.40q of %d×%d elements", name, rows, cols)
	}
	f, err := open(param, stored, rows, cols)
	if err != nil {
		return nil, fmt.Errorf("form %.40q of %d×%d %s: %w", name, rows, cols, stored, err)
	}
	return f, nil
}

// Sizing returns the name of a form whose parts have the same sizes as those of
// the one with the given name, and that many weights share: the offset that
// each BNB4 has for itself changes none.
func Sizing(name string) string {
	before, _, _ := strings.Cut(name, ","+offsetKey+"=")
	return before
}

// maxElements bounds a tensor, so that no size of a part overflows.
const maxElements = 1 << 50

// forms open a form from what follows its name.
var forms = map[string]func(param string, stored dtype.Type, rows, cols int64) (Form, error){
	interleavedName: openInterleaved,
	plusName:        openPlus,
	Float8:          openFloat8,
	scaledName:      openScaled,
	wordsName:       openWords,
	mxName:          openMX,
	nvName:          openNV,
	bnb4Name:        openBNB4,
	gptqName:        openGPTQ,
	awqName:         openAWQ,
	gemvName:        openGemv,
}
