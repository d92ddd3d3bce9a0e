package loader

import (
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
)

// wrap sees the view's rows, where they lie, as a matrix that ONNX Runtime has an
// operator for; false where it has none for the scheme.
func (v view) wrap() (ort.Matrix, bool) {
	e, rows, cols := v.enc, int(v.rows.Len()), int(v.slice.Held.Len())
	mem := map[quant.Role][]byte{}
	var values, scales quant.Plane
	for i, b := range v.planes {
		p := e.layout.Planes[i]
		mem[p.Role] = b
		switch p.Role {
		case quant.Values:
			values = p
		case quant.Scales:
			scales = p
		}
	}
	if bits, block, ok := quant.NBits(e.scheme); ok {
		return ort.NBits{Bits: bits, Block: block, Rows: rows, Cols: cols,
			Data: mem[quant.Values], Scales: mem[quant.Scales], Zeros: mem[quant.ZeroPoints]}, true
	}
	w := ort.Weight{Type: values.DType, Data: mem[quant.Values], Rows: rows, Cols: cols}
	if scales.Role == quant.Scales {
		if scales.DType != dtype.F32 {
			return nil, false
		}
		w.Scales, w.ScaleType, w.Block = mem[quant.Scales], dtype.F32, int(scales.Cols)
	}
	switch w.Type {
	case dtype.F32, dtype.F16, dtype.BF16:
		return w, true
	case dtype.I8, dtype.F8E4M3, dtype.F8E5M2:
		return w, w.Scales != nil
	case dtype.I32:
		return wrapPacked(w, values, mem[quant.ZeroPoints])
	}
	return nil, false
}

// wrapPacked sees words of packed codes as their elements, where those are 4
// or 8 bits and the words of a row are full.
func wrapPacked(w ort.Weight, values quant.Plane, zeros []byte) (ort.Matrix, bool) {
	switch bits := values.Unit * 8 / values.Cols; {
	case w.Scales == nil, int64(w.Cols)%values.Cols != 0:
		return nil, false
	case bits == 4:
		w.Type = dtype.U4
	case bits == 8:
		w.Type = dtype.U8
	default:
		return nil, false
	}
	half := byte(8)
	if w.Type == dtype.U8 {
		half = 128
	}
	for _, z := range zeros { // signed, where the elements are not
		w.Zeros = append(w.Zeros, z+half)
	}
	return w, true
}
