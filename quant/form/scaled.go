package form

import (
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
)

const scaledName = "scaled"

// Scaled is elements of 8 bits with scales, each for a block of Rows × Cols of
// them (0: all rows, all columns), stored row-major as a second array:
//
//	x = (q - zero) × scale, or (q × scale) × float32(1/Over)
//
// It is compressed-tensors' int-quantized and float-quantized (a scale for each
// row, for all, or for Cols of a row; zero points as a third array, I8), the
// FP8 blocks that DeepSeek introduced (weight_scale_inv, 128 × 128; the name
// notwithstanding it is multiplied), and bitsandbytes' int8 (SCB, Over 127,
// int8_vectorwise_dequant). Sources: compressed-tensors'
// quantization/lifecycle/forward.py, _dequantize; DeepSeek-V3's
// inference/kernel.py, weight_dequant_kernel; bitsandbytes/functional.py.
type Scaled struct {
	Scale      dtype.Type // F32, F16 or BF16
	Rows, Cols int64
	Zero       bool
	Over       int64
}

// Name is the form's name.
func (s Scaled) Name() string {
	return spell(scaledName, "scale", s.Scale, "rows", s.Rows, "cols", s.Cols, "zero", flag(s.Zero), "over", s.Over)
}

// scaled is Scaled of one tensor.
type scaled struct {
	Scaled
	values     *[256]float32
	rows, cols int64
	groups     int64 // scales in a row
	size       int64 // bytes of a scale
	over       float32
}

func openScaled(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	p := parseParams(param)
	s := &scaled{rows: rows, cols: cols, values: tables[stored]}
	s.Scale, s.Rows, s.Cols = p.typ("scale", scaleTypes...), p.int("rows", 1), p.int("cols", 1)
	s.Zero, s.Over = p.int("zero", 1) == 1, p.int("over", 1)
	if err := p.done(); err != nil {
		return nil, err
	}
	switch {
	case s.Scale == dtype.Invalid:
		return nil, errors.New("no type of scales")
	case s.values == nil:
		return nil, fmt.Errorf("its elements are %s, not of 8 bits", stored)
	case rows < 1 || cols < 1:
		return nil, errors.New("it has no elements")
	}
	if s.Cols == 0 {
		s.Cols = cols
	}
	if s.Over > 0 {
		s.over = float32(1 / float64(s.Over))
	}
	s.groups, s.size = (cols+s.Cols-1)/s.Cols, int64(s.Scale.Size())
	return s, nil
}

func (s *scaled) Parts() []Part {
	scales := Part{Axis: Rows, Per: s.Rows, Unit: s.groups * s.size, Across: Cols, Each: s.Cols}
	if s.Rows == 0 {
		scales.Axis, scales.Per, scales.Units = Whole, 1, 1
	} else {
		scales.Units = (s.rows + s.Rows - 1) / s.Rows
	}
	parts := []Part{{Axis: Rows, Per: 1, Unit: s.cols, Units: s.rows, Across: Cols, Each: 1}, scales}
	if s.Zero {
		scales.Unit = s.groups
		parts = append(parts, scales)
	}
	return parts
}

func (*scaled) Type() dtype.Type { return dtype.F32 }

func (s *scaled) Read(dst []byte, from []Slab, rows, cols Range) {
	for r := rows.Start; r < rows.Stop; r++ {
		q := from[0].unit(r, s.cols)
		block := int64(0)
		if s.Rows > 0 {
			block = r / s.Rows
		}
		scales := from[1].unit(block, s.groups*s.size)
		for g := cols.Start / s.Cols; g*s.Cols < cols.Stop; g++ {
			scale, zero := float(scales[g*s.size:], s.Scale), float32(0)
			if s.Zero {
				zero = float32(int8(from[2].unit(block, s.groups)[g]))
			}
			for c := max(g*s.Cols, cols.Start); c < min((g+1)*s.Cols, cols.Stop); c++ {
				v := float32((s.values[q[c]] - zero) * scale)
				if s.Over > 0 {
					v = float32(v * s.over)
				}
				putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, v)
			}
		}
	}
}

// tables are the values of the types of 8 bits.
var tables = map[dtype.Type]*[256]float32{
	dtype.I8:         tabulate(func(b uint8) float32 { return float32(int8(b)) }),
	dtype.F8E4M3:     tabulate(dtype.F8E4M3ToF32),
	dtype.F8E5M2:     tabulate(dtype.F8E5M2ToF32),
	dtype.F8E4M3FNUZ: tabulate(dtype.F8E4M3FNUZToF32),
	dtype.F8E5M2FNUZ: tabulate(dtype.F8E5M2FNUZToF32),
}

func tabulate(value func(uint8) float32) *[256]float32 {
	var t [256]float32
	for i := range t {
		t[i] = value(uint8(i))
	}
	return &t
}
