package model

import (
	"encoding/binary"
	"encoding/json"
	"math"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// fileTensor is a tensor of an exported file, and where its bytes come from:
// a plane of one of the model's tensors, unless data has them.
type fileTensor struct {
	safetensors.Tensor
	plane int
	once  bool   // the plane's first row alone, which the others repeat
	pack  int    // not 0: the plane's I8 are codes of so many bits, packed over the rows
	data  []byte // all of it
	turn  bool   // the plane's rows are the file's columns
}

// packedRows is how many rows of packed codes are whole words, of any bits.
const packedRows = 32

// fileTensors returns the tensors that a file has of one of the model's: its
// planes but the original, and what the published layout wants besides. It is
// in the order of the planes first.
func (m *Model) fileTensors(tensor int) ([]fileTensor, error) {
	t := &m.parts.Plan.Tensors[tensor]
	format, _ := quant.FormatOf(m.schemes[tensor])
	var out []fileTensor
	for i, p := range t.Layout.Planes {
		if p.Role == quant.Original {
			continue
		}
		f := fileTensor{Tensor: safetensors.Tensor{Name: t.Name + p.Suffix, DType: p.DType, Shape: planeShape(t, p)}, plane: i}
		switch {
		case format.Method == quant.BitsAndBytes: // flat, the codes as one column
			f.Shape = []int64{f.Shape[0] * f.Shape[1]}
			if p.Role == quant.Values {
				f.Shape = append(f.Shape, 1)
			}
		case p.Shared:
			f.once, f.Shape = true, []int64{1}
		case turned(m.parts.Plan, t): // which Exportable allows plain elements only
			f.turn, f.Shape = true, []int64{t.Shape[1], t.Shape[0]}
		case p.Role == quant.ZeroPoints:
			f.pack, f.DType = format.Bits, dtype.I32
			f.Shape[0] = (t.Rows*int64(f.pack) + 31) / 32
		}
		out = append(out, f)
	}
	switch {
	case format.Method == quant.BitsAndBytes:
		more, err := bitsAndBytesState(t)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	case format.Format == "pack-quantized":
		var shape []byte
		for _, d := range t.Shape {
			shape = binary.LittleEndian.AppendUint64(shape, uint64(d))
		}
		out = append(out, fileTensor{Tensor: safetensors.Tensor{Name: t.Name + "_shape", DType: dtype.I64,
			Shape: []int64{int64(len(t.Shape))}}, data: shape})
	}
	return out, nil
}

// planeShape returns the shape of a plane of a whole tensor: the tensor's own
// where it has its elements, else rows × what a row has.
func planeShape(t *shard.Tensor, p quant.Plane) []int64 {
	if p.Role == quant.Values && p.Cols == 1 {
		return t.Shape
	}
	return []int64{t.Rows, p.RowBytes(t.Cols) / int64(p.DType.Size())}
}

// bitsAndBytesState returns what bitsandbytes' QuantState stores beside codes
// and absmax (functional.py: as_dict with packed, pack_dict_to_tensor): the
// levels, and a JSON object as bytes.
func bitsAndBytesState(t *shard.Tensor) ([]fileTensor, error) {
	state, err := json.Marshal(struct {
		Type  string  `json:"quant_type"`
		Block int     `json:"blocksize"`
		DType string  `json:"dtype"`
		Shape []int64 `json:"shape"`
	}{"nf4", quant.NF4Block, torchTypes[t.DType], t.Shape})
	if err != nil {
		return nil, err
	}
	levels := quant.NF4Levels()
	var levelBytes []byte
	for _, l := range levels {
		levelBytes = binary.LittleEndian.AppendUint32(levelBytes, math.Float32bits(l))
	}
	return []fileTensor{
		{Tensor: safetensors.Tensor{Name: t.Name + ".quant_map", DType: dtype.F32, Shape: []int64{int64(len(levels))}}, data: levelBytes},
		{Tensor: safetensors.Tensor{Name: t.Name + ".quant_state.bitsandbytes__nf4", DType: dtype.U8, Shape: []int64{int64(len(state))}}, data: state},
	}, nil
}

// write writes what rows of the tensor's planes hold of f, which is tensor i
// of the file. rows begin at a multiple of packedRows.
func (f *fileTensor) write(w *safetensors.Writer, i int, rows shard.Span, planes [][]byte) error {
	switch {
	case f.data != nil:
		if rows.Start > 0 {
			return nil
		}
		return w.WriteTensor(i, f.data, 0)
	case f.pack > 0:
		cols := f.Shape[1]
		return w.WriteTensor(i, packRows(planes[f.plane], int(cols), f.pack), rows.Start/32*int64(f.pack)*cols*4)
	case f.turn:
		return f.writeColumns(w, i, rows, planes[f.plane])
	}
	b := planes[f.plane]
	row := int64(len(b)) / rows.Len()
	if f.once {
		if rows.Start > 0 {
			return nil
		}
		return w.WriteTensor(i, b[:row], 0)
	}
	return w.WriteTensor(i, b, rows.Start*row)
}

// writeColumns writes rows of plain elements as columns of tensor i.
func (f *fileTensor) writeColumns(w *safetensors.Writer, i int, rows shard.Span, b []byte) error {
	size, cols, height := int64(f.DType.Size()), f.Shape[0], f.Shape[1]
	column := make([]byte, rows.Len()*size)
	for c := range cols {
		for r := range rows.Len() {
			copy(column[r*size:(r+1)*size], b[(r*cols+c)*size:])
		}
		if err := w.WriteTensor(i, column, (c*height+rows.Start)*size); err != nil {
			return err
		}
	}
	return nil
}

// packRows packs signed codes of a matrix of cols columns along its rows, each
// column by itself: code r of a column has bits [r × bits, (r + 1) × bits) of
// the column's words, low bits first, and holds the code + 2^(bits-1). Source:
// compressed-tensors, pack_to_int32 with packed_dim 0.
func packRows(codes []byte, cols, bits int) []byte {
	rows := len(codes) / cols
	words := make([]uint32, (rows*bits+31)/32*cols)
	for i, c := range codes {
		r, col := i/cols, i%cols
		v := uint64(int(int8(c))+1<<(bits-1)) << (r * bits % 32)
		at := r*bits/32*cols + col
		words[at] |= uint32(v)
		if high := uint32(v >> 32); high != 0 {
			words[at+cols] |= high
		}
	}
	out := make([]byte, 0, 4*len(words))
	for _, w := range words {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}
