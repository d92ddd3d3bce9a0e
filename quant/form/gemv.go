package form

import (
	"encoding/binary"
	"errors"

	"github.com/gantry-ml/gantry/dtype"
)

const gemvName = "awq_gemv"

// Gemv is AWQ's gemv: 32-bit words along each row, [out, in / 8], each of eight
// integers of 4 bits, the first in the lowest bits; for each Group of a row a
// zero point, packed along the row in the same way, and a scale. Rows of zero
// points are filled up to a multiple of words that depends on the group, those
// of scales to eight for each such word.
//
//	x = (q - zero) × scale
//
// Parts: qweight, qzeros, scales.
// Source: AutoAWQ, modules/linear/gemv.py (WQLinear_GEMV, calculate_zeros_width).
type Gemv struct {
	Group int64
	Scale dtype.Type
}

// Name is the form's name.
func (g Gemv) Name() string { return spell(gemvName, "group", g.Group, "scale", g.Scale) }

type gemv struct {
	Gemv
	rows, cols int64
	width      int64 // words of zero points in a row
	size       int64 // bytes of a scale
}

func openGemv(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	p := parseParams(param)
	f := &gemv{rows: rows, cols: cols}
	f.Group, f.Scale = p.int("group", 1), p.typ("scale", scaleTypes...)
	if err := p.done(); err != nil {
		return nil, err
	}
	switch {
	case f.Scale == dtype.Invalid || rows < 1 || cols < 1:
		return nil, errors.New("no scales")
	case stored != dtype.I32:
		return nil, errors.New("it is not packed into I32")
	case f.Group != 32 && f.Group != 64 && f.Group < 128 || cols%f.Group != 0 || cols%8 != 0:
		return nil, errors.New("the columns are not whole groups of 32, 64, 128 or more")
	}
	multiple := max(128/f.Group, 1)
	f.width = blocks(blocks(cols/f.Group, 8), multiple) * multiple
	f.size = int64(f.Scale.Size())
	return f, nil
}

func (f *gemv) Parts() []Part {
	part := func(unit, each int64) Part {
		return Part{Axis: Rows, Per: 1, Unit: unit, Units: f.rows, Across: Cols, Each: each}
	}
	// Of groups each rank holds all: a row is filled up.
	return []Part{part(f.cols/2, 8), part(4*f.width, 0), part(8*f.width*f.size, 0)}
}

func (*gemv) Type() dtype.Type { return dtype.F32 }

func (f *gemv) Read(dst []byte, from []Slab, rows, cols Range) {
	for r := rows.Start; r < rows.Stop; r++ {
		q, zeros, scales := from[0].unit(r, f.cols/2), from[1].unit(r, 4*f.width), from[2].unit(r, 8*f.width*f.size)
		for c := cols.Start; c < cols.Stop; c++ {
			g := c / f.Group
			v := int32(binary.LittleEndian.Uint32(q[c/8*4:]) >> (c % 8 * 4) & 15)
			zero := int32(binary.LittleEndian.Uint32(zeros[g/8*4:]) >> (g % 8 * 4) & 15)
			putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, float32(float32(v-zero)*float(scales[g*f.size:], f.Scale)))
		}
	}
}
