package form

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/gantry-ml/gantry/dtype"
)

const interleavedName = "interleaved"

// Interleaved names the form in which the rows of each head are pairs of
// neighbours where transformers pairs the first half of the head with the
// second: row i of a head of that many rows is stored as row 2i, row i + head/2
// as row 2i + 1. llama.cpp's converter leaves query and key projections of the
// Llama family so (LlamaModel.permute).
func Interleaved(head int64) string { return fmt.Sprintf("%s:%d", interleavedName, head) }

// interleaved are rows of any type that is whole bytes in each row. A unit is
// a head.
type interleaved struct {
	head  int64
	row   int64 // bytes
	units int64
	typ   dtype.Type
}

func openInterleaved(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	head, err := strconv.ParseInt(param, 10, 32)
	switch {
	case err != nil || head < 2 || head%2 != 0:
		return nil, fmt.Errorf("heads of %.20q rows: want an even number from 2 on", param)
	case rows%head != 0:
		return nil, errors.New("the rows are not whole heads")
	}
	row, err := stored.Bytes(cols)
	if err != nil {
		return nil, err
	}
	return &interleaved{head: head, row: row, units: rows / head, typ: stored}, nil
}

func (f *interleaved) Parts() []Part {
	return []Part{{Axis: Rows, Per: f.head, Unit: f.head * f.row, Units: f.units}}
}

func (f *interleaved) Type() dtype.Type { return f.typ }

func (f *interleaved) Read(dst []byte, from []Slab, rows, _ Range) {
	half := f.head / 2
	for r := rows.Start; r < rows.Stop; r++ {
		at := r % f.head
		head := from[0].unit(r/f.head, f.head*f.row)
		copy(dst[(r-rows.Start)*f.row:], head[(at%half*2+at/half)*f.row:][:f.row])
	}
}
