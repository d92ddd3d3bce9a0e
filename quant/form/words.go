package form

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
)

const wordsName = "words"

// Words is compressed-tensors' pack-quantized: 32-bit words along each row,
// each of 32 / Bits integers, the first in the lowest bits, and a scale for
// each Group of a row. Tight are Bits that do not divide 32 and leave nothing
// of a word, so that integers run across words (its versions from May 2026 on).
//
//	x = (q - zero) × scale
//
// q is stored as q + 2^(Bits-1), and so is zero, if there are zero points: they
// are packed along the rows, as 32-bit words [rows × Bits / 32, groups], so that
// the offsets cancel. Without, zero is 0. With an Index there is an I32 for each
// column that says which group it is in (act-order). Parts: weight_packed,
// weight_scale, weight_zero_point, weight_g_idx.
// Source: compressed-tensors, compressors/pack_quantized/base.py
// (pack_to_int32, unpack_from_int32, packed_dim).
type Words struct {
	Bits, Groups int64 // Groups: scales in a row
	Scale        dtype.Type
	Zero, Index  bool
	Tight        bool
}

// Name is the form's name.
func (w Words) Name() string {
	return spell(wordsName, "bits", w.Bits, "groups", w.Groups, "scale", w.Scale, "zero", flag(w.Zero), "index", flag(w.Index), "tight", flag(w.Tight))
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

type words struct {
	Words
	rows, cols int64
	per        int64 // whole integers in a word
	rest       int64 // bits of a word that are left, 0 where it is tight
	row        int64 // words in a row
	group      int64
	size       int64 // bytes of a scale
}

func openWords(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	p := parseParams(param)
	w := &words{rows: rows, cols: cols}
	w.Bits, w.Groups, w.Scale = p.int("bits", 1), p.int("groups", 1), p.typ("scale", scaleTypes...)
	w.Zero, w.Index, w.Tight = p.int("zero", 1) == 1, p.int("index", 1) == 1, p.int("tight", 1) == 1
	if err := p.done(); err != nil {
		return nil, err
	}
	switch {
	case w.Bits < 2 || w.Bits > 8 || w.Tight && 32%w.Bits == 0:
		return nil, fmt.Errorf("%d bits, want 2 to 8", w.Bits)
	case w.Scale == dtype.Invalid, w.Groups < 1 || w.Groups > cols || rows < 1:
		return nil, errors.New("no scales, or more than columns")
	case stored != dtype.I32:
		return nil, errors.New("it is not packed into I32")
	case cols%w.Groups != 0 && !w.Index:
		return nil, errors.New("the columns are not whole groups")
	}
	w.per, w.group, w.size = 32/w.Bits, (cols+w.Groups-1)/w.Groups, int64(w.Scale.Size())
	w.row = (cols + w.per - 1) / w.per
	if w.Tight {
		w.row = (cols*w.Bits + 31) / 32
	} else {
		w.rest = 32 % w.Bits
	}
	return w, nil
}

func (w *words) Parts() []Part {
	parts := []Part{
		{Axis: Rows, Per: 1, Unit: 4 * w.row, Units: w.rows, Across: Cols, Each: w.per},
		{Axis: Rows, Per: 1, Unit: w.Groups * w.size, Units: w.rows, Across: Cols, Each: w.group},
	}
	switch {
	case w.Tight:
		parts[0].Each = 0 // a word has parts of integers of both sides
		if w.Zero {
			parts = append(parts, Part{Axis: Whole, Per: 1, Unit: 4 * w.Groups * w.zeroWords(), Units: 1})
		}
	case w.Zero:
		parts = append(parts, Part{Axis: Rows, Per: w.per, Unit: 4 * w.Groups, Units: (w.rows + w.per - 1) / w.per, Across: Cols, Each: w.group})
	}
	if w.Index {
		for i := range parts[1:] { // any column may be in any group
			parts[1+i].Each = 0
		}
		parts = append(parts, Part{Axis: Whole, Per: 1, Unit: 4 * w.cols, Units: 1})
	}
	return parts
}

// zeroWords returns the words of a column of zero points that are tight.
func (w *words) zeroWords() int64 { return (w.rows*w.Bits + 31) / 32 }

func (*words) Type() dtype.Type { return dtype.F32 }

// zero returns what is stored of the zero point of a row's group.
func (w *words) zero(from Slab, r, g int64) uint32 {
	if w.Tight {
		return bits(from.Data[4*g:], 4*w.Groups, r*w.Bits)
	}
	return binary.LittleEndian.Uint32(from.unit(r/w.per, 4*w.Groups)[4*g:]) >> (r % w.per * w.Bits)
}

func (w *words) Read(dst []byte, from []Slab, rows, cols Range) {
	mask := uint32(1)<<w.Bits - 1
	for r := rows.Start; r < rows.Stop; r++ {
		q, scales := from[0].unit(r, 4*w.row), from[1].unit(r, w.Groups*w.size)
		for c := cols.Start; c < cols.Stop; c++ {
			g := c / w.group
			if w.Index {
				g = min(int64(binary.LittleEndian.Uint32(from[len(from)-1].Data[4*c:])), w.Groups-1)
			}
			zero := int32(1) << (w.Bits - 1)
			if w.Zero {
				zero = int32(w.zero(from[2], r, g) & mask)
			}
			at := c*w.Bits + c/w.per*w.rest
			v := int32(bits(q, 4, at) & mask)
			putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, float32(float32(v-zero)*float(scales[g*w.size:], w.Scale)))
		}
	}
}
