package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// rowInt8 is int8, symmetric, one scale a row (output channel), in the layout
// that compressed-tensors calls int-quantized with strategy channel: an I8
// weight [out, in] and a weight_scale [out, 1].
//
//	scale = max(absmax / 127.5, 2⁻²³)
//	q     = clamp(roundHalfEven(x / scale), -128, 127)
//	x     ≈ q × scale, off by at most scale / 2 and its rounding
//
// 127.5 is half of the range -128 to 127, and 2⁻²³ is F32's epsilon: a row of
// zeros, or of values far below any weight, gets that scale, so no scale is
// ever denormal. Source: compressed-tensors, quantization/utils/helpers.py
// (calculate_qparams), quantization/lifecycle/forward.py (_quantize), and
// lifecycle/initialize.py, which allows F16, BF16 and F32 scales. Gantry
// stores F32 whatever the weight's type: vLLM reads into F32, ONNX Runtime's
// DequantizeLinear takes it on every provider, and a BF16 scale alone would
// be off by as much as the largest value's rounding.
//
// A row that holds a NaN or an infinity gets the scale NaN and zeros: it
// decodes to NaN as a whole, rather than to something plausible. An F64 that
// overflows F32 counts as an infinity.
type rowInt8 struct{}

const (
	int8Range    = 127.5
	int8MinScale = 0x1p-23
	nanBits      = 0x7fc00000 // the NaN that stands for a row that is not finite
	infBits      = 0x7f800000
)

func (rowInt8) Name() string { return "int8" }

func (rowInt8) Target() Target { return Linear }

func (s rowInt8) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, 1); err != nil {
		return Layout{}, err
	}
	return Layout{Align: 1, Scope: Row, Planes: []Plane{
		{DType: dtype.I8, Cols: 1, Unit: 1},
		{Role: Scales, Suffix: "_scale", DType: dtype.F32, Cols: 0, Unit: 4},
	}}, nil
}

func (rowInt8) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	size := from.Size()
	for r := range rows {
		row := src[r*cols*size : (r+1)*cols*size]
		scale := int8Scale(kernel.absmax(row, from))
		q := dst[0][r*cols : (r+1)*cols]
		if scale != scale {
			clear(q)
		} else {
			kernel.int8(q, row, from, scale)
		}
		binary.LittleEndian.PutUint32(dst[1][4*r:], math.Float32bits(scale))
	}
}

// int8Scale returns the scale of a row whose largest magnitude has the F32
// bits absmax; NaN where that is not finite.
func int8Scale(absmax uint32) float32 {
	if absmax >= infBits {
		return math.Float32frombits(nanBits)
	}
	return max(float32(math.Float32frombits(absmax)/int8Range), int8MinScale)
}

func (rowInt8) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for r := range rows {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*r:]))
		row := dst[r*cols : (r+1)*cols]
		q := src[0][r*cols:]
		q = q[:len(row)]
		for i := range row {
			row[i] = float32(float32(int8(q[i])) * scale)
		}
	}
}

func (rowInt8) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], cols, func(row []float32) float64 {
		return halfStep(max(absmax(row)/int8Range, int8MinScale), 255)
	})
}
