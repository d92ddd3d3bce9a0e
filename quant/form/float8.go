package form

import (
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
)

// Float8 names the form of 8-bit floats that have no scales: the values that
// they are, as F32.
const Float8 = "float8"

// IsFloat8 reports whether elements of a type can have this form.
func IsFloat8(t dtype.Type) bool { return t != dtype.I8 && tables[t] != nil }

type float8 struct {
	values     *[256]float32
	rows, cols int64
}

func openFloat8(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	switch {
	case param != "":
		return nil, errors.New("it has no parameters")
	case !IsFloat8(stored):
		return nil, fmt.Errorf("its elements are %s", stored)
	}
	return &float8{tables[stored], rows, cols}, nil
}

func (f *float8) Parts() []Part {
	return []Part{{Axis: Rows, Per: 1, Unit: f.cols, Units: f.rows, Across: Cols, Each: 1}}
}

func (*float8) Type() dtype.Type { return dtype.F32 }

func (f *float8) Read(dst []byte, from []Slab, rows, cols Range) {
	for r := rows.Start; r < rows.Stop; r++ {
		for i, q := range from[0].unit(r, f.cols)[cols.Start:cols.Stop] {
			putF32(dst, (r-rows.Start)*cols.Len()+int64(i), f.values[q])
		}
	}
}
