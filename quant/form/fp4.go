package form

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

const (
	mxName = "mxfp4"
	nvName = "nvfp4"
)

// MXFP4 names OCP's Microscaling FP4 as gpt-oss stores it: two E2M1 in a byte,
// the first in the lower bits, and for each 32 of a row the exponent of a power
// of two, E8M0. Parts: blocks, scales. x = FP4 × 2^(scale-127).
// Source: OCP Microscaling Formats (MX) 1.0; transformers'
// integrations/mxfp4.py, convert_moe_packed_tensors.
const MXFP4 = mxName

// NVFP4 names compressed-tensors' nvfp4-pack-quantized: two E2M1 in a byte, the
// first in the lower bits, a scale for each 16 of a row, E4M3, and one F32 for
// all. Parts: weight_packed, weight_scale, weight_global_scale.
// x = FP4 × (scale / global).
// Source: compressed-tensors, compressors/nvfp4 and forward.py, _dequantize.
const NVFP4 = nvName

// NVFP4Times names what NVIDIA's Model Optimizer makes of the same: the F32 for
// all is multiplied, and there is no negative zero. Parts: weight, weight_scale,
// weight_scale_2. x = FP4 × (scale × scale_2).
// Source: modelopt/torch/quantization/qtensor/nvfp4_tensor.py, dequantize.
const NVFP4Times = nvName + ":" + timesParam

const timesParam = "times"

// fp4Values are those of E2M1.
var fp4Values = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, float32(math.Copysign(0, -1)), -0.5, -1, -1.5, -2, -3, -4, -6}

type fp4 struct {
	rows, cols int64
	block      int64
	global     bool
	times      bool // global is multiplied
}

func openMX(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	return openFP4(&fp4{rows: rows, cols: cols, block: 32}, param, stored)
}

func openNV(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	f := &fp4{rows: rows, cols: cols, block: 16, global: true, times: param == timesParam}
	if f.times {
		param = ""
	}
	return openFP4(f, param, stored)
}

func openFP4(f *fp4, param string, stored dtype.Type) (Form, error) {
	switch {
	case param != "":
		return nil, errors.New("it has no parameters")
	case stored != dtype.U8:
		return nil, errors.New("its elements are not packed into U8")
	case f.rows < 1 || f.cols < 1 || f.cols%f.block != 0:
		return nil, errors.New("its rows are not whole blocks")
	}
	return f, nil
}

func (f *fp4) Parts() []Part {
	parts := []Part{
		{Axis: Rows, Per: 1, Unit: f.cols / 2, Units: f.rows, Across: Cols, Each: 2},
		{Axis: Rows, Per: 1, Unit: f.cols / f.block, Units: f.rows, Across: Cols, Each: f.block},
	}
	if f.global {
		parts = append(parts, Part{Axis: Whole, Per: 1, Unit: 4, Units: 1})
	}
	return parts
}

func (*fp4) Type() dtype.Type { return dtype.F32 }

func (f *fp4) Read(dst []byte, from []Slab, rows, cols Range) {
	var global float32
	if f.global {
		global = math.Float32frombits(binary.LittleEndian.Uint32(from[2].Data))
	}
	for r := rows.Start; r < rows.Stop; r++ {
		q, scales := from[0].unit(r, f.cols/2), from[1].unit(r, f.cols/f.block)
		for c := cols.Start; c < cols.Stop; c++ {
			scale := scales[c/f.block]
			s := dtype.F8E8M0ToF32(scale)
			v := fp4Values[q[c/2]>>(c%2*4)&15]
			switch {
			case f.times:
				s = float32(dtype.F8E4M3ToF32(scale) * global)
				v += 0 // -0 becomes 0
			case f.global:
				s = float32(dtype.F8E4M3ToF32(scale) / global)
			}
			putF32(dst, (r-rows.Start)*cols.Len()+c-cols.Start, float32(v*s))
		}
	}
}
