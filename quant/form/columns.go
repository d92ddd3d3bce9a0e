package form

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
)

const (
	gptqName = "gptq"
	awqName  = "awq"
)

// Columns is a weight that is stored [in, out], in 32-bit words, with scales
// and zero points for each Group of inputs, [in / Group, out]:
//
//	x = (q - zero) × scale
//
// GPTQ packs the weight along the inputs, AWQ (gemm) along the outputs; both
// pack zero points along the outputs. Integers follow from the lowest bits on
// (GPTQ's of 3 bits 32 in three words, some in two of them), with AWQ in the order of the outputs 0, 2, 4, 6, 1, 3, 5, 7. Plus is what is
// added to GPTQ's stored zero points: 1, unless their checkpoint_format is
// gptq_v2. With an Index (act-order) there is an I32 for each input that says
// which group it is in. Parts: qweight, qzeros, scales, g_idx.
// Sources: AutoGPTQ, nn_modules/qlinear (pack, forward); AutoAWQ,
// modules/linear/gemm.py and utils/packing_utils.py (AWQ_ORDER).
type Columns struct {
	AWQ         bool
	Bits, Group int64
	Scale       dtype.Type
	Plus        int64
	Index       bool
}

// Name is the form's name.
func (c Columns) Name() string {
	name := gptqName
	if c.AWQ {
		name = awqName
	}
	return spell(name, "bits", c.Bits, "group", c.Group, "scale", c.Scale, "plus", c.Plus, "index", flag(c.Index))
}

// awqOrder are the outputs that the eight integers of a word are for.
var awqOrder = [8]int64{0, 2, 4, 6, 1, 3, 5, 7}

type columns struct {
	Columns
	rows, cols int64
	per        int64   // integers in as few words as hold them whole
	words      int64   // those: 3 where there are 3 bits, else 1
	size       int64   // bytes of a scale
	shift      []int64 // AWQ's, of the integers in a word
}

func openGPTQ(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	return openColumns(false, param, stored, rows, cols)
}

func openAWQ(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	return openColumns(true, param, stored, rows, cols)
}

func openColumns(awq bool, param string, stored dtype.Type, rows, cols int64) (Form, error) {
	p := parseParams(param)
	f := &columns{rows: rows, cols: cols}
	f.AWQ, f.Bits, f.Group, f.Scale = awq, p.int("bits", 1), p.int("group", 1), p.typ("scale", scaleTypes...)
	f.Plus, f.Index = p.int("plus", 1), p.int("index", 1) == 1
	if err := p.done(); err != nil {
		return nil, err
	}
	switch {
	case f.Bits != 4 && (awq || f.Bits != 2 && f.Bits != 3 && f.Bits != 8):
		return nil, fmt.Errorf("%d bits, want 4, or with GPTQ 2, 3 or 8", f.Bits)
	case f.Scale == dtype.Invalid || f.Group == 0 || rows < 1 || cols < 1:
		return nil, errors.New("no scales")
	case awq && (f.Index || f.Plus > 0) || f.Plus > 1:
		return nil, errors.New("such zero points, or order of inputs, are not defined")
	case stored != dtype.I32:
		return nil, errors.New("it is not packed into I32")
	}
	f.per, f.words, f.size = 32/f.Bits, 1, int64(f.Scale.Size())
	if f.Bits == 3 {
		f.per, f.words = 32, 3
	}
	if rows%f.per != 0 || !awq && cols%f.per != 0 {
		return nil, fmt.Errorf("rows or columns are not whole words of %d integers", f.per)
	}
	if awq {
		f.shift = make([]int64, f.per)
		for i, at := range awqOrder {
			f.shift[at] = int64(i) * f.Bits
		}
	}
	return f, nil
}

func (f *columns) Parts() []Part {
	groups := (f.cols + f.Group - 1) / f.Group
	weight := Part{Axis: Cols, Per: f.per, Unit: 4 * f.words * f.rows, Units: f.cols / f.per, Across: Rows, Each: 1}
	if f.AWQ {
		weight = Part{Axis: Cols, Per: 1, Unit: 4 * f.rows / f.per, Units: f.cols, Across: Rows, Each: f.per}
	}
	parts := []Part{weight,
		{Axis: Cols, Per: f.Group, Unit: f.zeroBytes(), Units: groups, Across: Rows, Each: f.per},
		{Axis: Cols, Per: f.Group, Unit: f.rows * f.size, Units: groups, Across: Rows, Each: 1}}
	if f.words > 1 {
		parts[1].Each = 0 // a word has parts of integers of both sides
	}
	if f.Index {
		for i := range parts[1:] { // any input may be in any group
			parts[1+i].Axis, parts[1+i].Per = Whole, 1
		}
		parts = append(parts, Part{Axis: Cols, Per: 1, Unit: 4, Units: f.cols})
	}
	return parts
}

// zeroBytes returns the bytes of a group's zero points.
func (f *columns) zeroBytes() int64 { return f.rows * f.Bits / 8 }

func (*columns) Type() dtype.Type { return dtype.F32 }

func (f *columns) Read(dst []byte, from []Slab, rows, cols Range) {
	mask := uint32(1)<<f.Bits - 1
	for c := cols.Start; c < cols.Stop; c++ {
		g := c / f.Group
		if f.Index {
			g = min(int64(binary.LittleEndian.Uint32(from[3].unit(c, 4))), (f.cols+f.Group-1)/f.Group-1)
		}
		zeros, scales := from[1].unit(g, f.zeroBytes()), from[2].unit(g, f.rows*f.size)
		var q []byte
		if f.AWQ {
			q = from[0].unit(c, 4*f.rows/f.per)
		} else {
			q = from[0].unit(c/f.per, 4*f.words*f.rows)
		}
		for r := rows.Start; r < rows.Stop; r++ {
			var v, zero uint32
			if f.AWQ {
				word, shift := 4*(r/f.per), f.shift[r%f.per]
				v, zero = binary.LittleEndian.Uint32(q[word:])>>shift&mask, binary.LittleEndian.Uint32(zeros[word:])>>shift&mask
			} else {
				v = bits(q[4*r:], 4*f.rows, c%f.per*f.Bits) & mask
				zero = bits(zeros, 4, r*f.Bits)&mask + uint32(f.Plus)
			}
			x := float32(float32(int32(v)-int32(zero)) * float(scales[r*f.size:], f.Scale))
			putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, x)
		}
	}
}

// bits returns what begins at a bit of a run of words that lie so many bytes
// apart, up to the end of a word or, where there is more than 24 bits before
// it, of the next.
func bits(b []byte, apart, at int64) uint32 {
	word, shift := at/32*apart, at%32
	v := binary.LittleEndian.Uint32(b[word:]) >> shift
	if shift > 24 && word+apart+4 <= int64(len(b)) {
		v |= binary.LittleEndian.Uint32(b[word+apart:]) << (32 - shift)
	}
	return v
}
