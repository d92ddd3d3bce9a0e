package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// fp8 is fp8_e4m3 and fp8_e5m2: 8-bit floats with one F32 scale a row (output
// channel), in the layout that compressed-tensors calls float-quantized with
// strategy channel: a weight [out, in] and a weight_scale [out, 1].
//
//	scale = max(absmax / most, 2⁻²³), where most is 448 (E4M3) or 57344 (E5M2)
//	q     = the float nearest to clamp(x / scale, -most, most), ties to even
//	x     ≈ q × scale, off by at most |x| / 16 (E4M3) or |x| / 8 (E5M2), and
//	        half of the smallest step, scale / 1024 or scale / 131072
//
// The scale's floor is int8's. Source: compressed-tensors,
// quantization/utils/helpers.py (calculate_qparams, calculate_range) and
// quant_args.py (round_to_quantized_type_args) for E4M3; E5M2, which it does
// not name, is done alike. The types are OFP8's (dtype/fp8.go).
//
// absmax is of the finite values. A NaN stays a NaN; an infinity becomes NaN
// in E4M3, which has none, and stays one in E5M2. An F64 that overflows F32
// counts as an infinity.
type fp8 struct {
	to dtype.Type
}

func (s fp8) Name() string {
	if s.to == dtype.F8E5M2 {
		return "fp8_e5m2"
	}
	return "fp8_e4m3"
}

func (fp8) Target() Target { return Linear }

func (s fp8) most() float32 {
	if s.to == dtype.F8E5M2 {
		return dtype.MaxF8E5M2
	}
	return dtype.MaxF8E4M3
}

func (s fp8) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, 1); err != nil {
		return Layout{}, err
	}
	return Layout{Align: 1, Scope: Row, Planes: []Plane{
		{DType: s.to, Cols: 1, Unit: 1},
		{Role: Scales, Suffix: "_scale", DType: dtype.F32, Unit: 4},
	}}, nil
}

func (s fp8) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	in := cols * from.Size()
	for r := range rows {
		row := src[r*in:][:in]
		most, finite := finiteAbsmax(row, from)
		scale := s.scale(most)
		binary.LittleEndian.PutUint32(dst[1][4*r:], math.Float32bits(scale))
		if q := dst[0][r*cols:][:cols]; finite {
			kernel.fp8(q, row, s.to, from, scale)
		} else {
			fp8Portable(q, row, s.to, from, scale)
		}
	}
}

func (s fp8) scale(absmax float32) float32 { return max(absmax/s.most(), int8MinScale) }

// fp8Portable writes elements divided by scale as type to.
func fp8Portable(dst, src []byte, to, from dtype.Type, scale float32) {
	most := fp8{to}.most()
	var f [tile]float32
	for len(src) > 0 {
		n := nextTile(&f, &src, from)
		for i, x := range f[:n] {
			y := float32(x / scale)
			if x-x == 0 { // else it is no number that could be clamped
				y = min(max(y, -most), most)
			}
			if to == dtype.F8E5M2 {
				dst[i] = dtype.F32ToF8E5M2(y)
			} else {
				dst[i] = dtype.F32ToF8E4M3(y)
			}
		}
		dst = dst[n:]
	}
}

// finiteAbsmax returns the largest finite magnitude, 0 without one, and
// whether all elements are finite.
func finiteAbsmax(src []byte, from dtype.Type) (most float32, all bool) {
	if most := kernel.absmax(src, from); most < infBits {
		return math.Float32frombits(most), true
	}
	var f [tile]float32
	for len(src) > 0 {
		n := nextTile(&f, &src, from)
		for _, x := range f[:n] {
			if x-x == 0 {
				most = max(most, abs(x))
			}
		}
	}
	return most, false
}

func (s fp8) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for r := range rows {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*r:]))
		out := dst[r*cols:][:cols]
		for i, q := range src[0][r*cols:][:cols] {
			if s.to == dtype.F8E5M2 {
				out[i] = float32(dtype.F8E5M2ToF32(q) * scale)
			} else {
				out[i] = float32(dtype.F8E4M3ToF32(q) * scale)
			}
		}
	}
}

func (s fp8) Bound(dst []float64, src []float32, rows, cols int) {
	relative, smallest := 0x1p-4, 0x1p-10
	if s.to == dtype.F8E5M2 {
		relative, smallest = 0x1p-3, 0x1p-17
	}
	for r := range rows {
		row := src[r*cols:][:cols]
		scale := s.scale(finiteAbsmaxOf(row))
		reach := float64(s.most()) * float64(scale) * rounded
		for i, x := range row {
			dst[r*cols+i] = math.Inf(1)
			if x-x == 0 && reach < math.MaxFloat32 {
				dst[r*cols+i] = max(math.Abs(float64(x))*relative, float64(scale)*smallest) * (1 + 0x1p-12)
			}
		}
	}
}

// finiteAbsmaxOf is finiteAbsmax for values.
func finiteAbsmaxOf(row []float32) (most float32) {
	for _, x := range row {
		if x-x == 0 {
			most = max(most, abs(x))
		}
	}
	return most
}
