package form

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gantry-ml/gantry/dtype"
)

const (
	bnb4Name  = "bnb4"
	offsetKey = "offset" // the last parameter
)

// BNB4 is bitsandbytes' 4-bit types, nf4 and fp4: two levels in a byte, the
// first in the upper bits, along the tensor's elements row by row, a table of
// 16 values, and the largest magnitude of each Block elements. Whatever element
// type the bytes are stored under (bnb_4bit_quant_storage, for what shards only
// floats), they are the same.
//
//	x = table[q] × absmax
//
// With Nested, absmax is quantized once more, in blocks of Nested of them:
// absmax = nested table[q] × nested absmax + Offset. Parts: weight, absmax,
// quant_map, and nested_absmax and nested_quant_map.
// Source: bitsandbytes/functional.py (QuantState, dequantize_4bit,
// dequantize_blockwise).
type BNB4 struct {
	Block, Nested int64
	Offset        float32
}

// Name is the form's name.
func (b BNB4) Name() string {
	return spell(bnb4Name, "block", b.Block, "nested", b.Nested, offsetKey, b.Offset)
}

type bnb4 struct {
	BNB4
	rows, cols int64
}

func openBNB4(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	p := parseParams(param)
	f := &bnb4{rows: rows, cols: cols}
	f.Block, f.Nested, f.Offset = p.int("block", 1), p.int("nested", 1), p.float(offsetKey)
	if err := p.done(); err != nil {
		return nil, err
	}
	switch {
	case f.Block == 0:
		return nil, errors.New("no block size")
	case !slices.Contains(bnb4Types, stored):
		return nil, fmt.Errorf("its levels are not stored as one of %v", bnb4Types)
	case rows < 1 || cols < 1 || cols%2 != 0:
		return nil, errors.New("its rows are not whole bytes")
	}
	return f, nil
}

// bnb4Types are the types that levels are stored under.
var bnb4Types = []dtype.Type{dtype.U8, dtype.I8, dtype.BF16, dtype.F16, dtype.F32, dtype.F64}

// blocks returns how many blocks of block elements n elements are.
func blocks(n, block int64) int64 { return (n + block - 1) / block }

func (f *bnb4) Parts() []Part {
	size := int64(4)
	if f.Nested > 0 {
		size = 1
	}
	n := blocks(f.rows*f.cols, f.Block)
	absmax := Part{Axis: Whole, Per: 1, Unit: n * size, Units: 1}
	if f.cols%f.Block == 0 {
		absmax = Part{Axis: Rows, Per: 1, Unit: f.cols / f.Block * size, Units: f.rows}
	}
	parts := []Part{{Axis: Rows, Per: 1, Unit: f.cols / 2, Units: f.rows}, absmax, {Axis: Whole, Per: 1, Unit: 64, Units: 1}}
	if f.Nested > 0 {
		parts = append(parts, Part{Axis: Whole, Per: 1, Unit: 4 * blocks(n, f.Nested), Units: 1}, Part{Axis: Whole, Per: 1, Unit: 1024, Units: 1})
	}
	return parts
}

func (*bnb4) Type() dtype.Type { return dtype.F32 }

func (f *bnb4) Read(dst []byte, from []Slab, rows, cols Range) {
	first := int64(0) // of the absmax at hand
	if f.cols%f.Block == 0 {
		first = from[1].First * (f.cols / f.Block)
	}
	last, absmax := int64(-1), float32(0)
	for r := rows.Start; r < rows.Stop; r++ {
		q := from[0].unit(r, f.cols/2)
		for c := cols.Start; c < cols.Stop; c++ {
			if block := (r*f.cols + c) / f.Block; block != last {
				last, absmax = block, f.absmax(from, block-first, block)
			}
			level := q[c/2] >> (4 - c%2*4) & 15
			putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, float32(f32At(from[2].Data, int64(level))*absmax))
		}
	}
}

// absmax returns that of a block of the tensor, which is at another place in
// what there is of the array.
func (f *bnb4) absmax(from []Slab, at, block int64) float32 {
	if f.Nested == 0 {
		return f32At(from[1].Data, at)
	}
	q := from[1].Data[at]
	return float32(f32At(from[4].Data, int64(q))*f32At(from[3].Data, block/f.Nested)) + f.Offset
}

// f32At reads the i-th F32.
func f32At(b []byte, i int64) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}
