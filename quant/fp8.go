package quant

import (
	"encoding/binary"
	"errors"
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

func (fp8) form() (params, defaults string) { return "scale=channel|tensor", "channel" }

func (s fp8) with(key, value string) (Scheme, error) {
	switch {
	case key != "scale":
		return nil, errors.New("want scale")
	case value == "channel":
		return s, nil
	case value == "tensor":
		return fp8Tensor{fp8: s}, nil
	}
	return nil, errors.New("want channel or tensor")
}

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
		most, finite := absmaxOfFinite(row, from)
		scale := s.scale(most)
		binary.LittleEndian.PutUint32(dst[1][4*r:], math.Float32bits(scale))
		s.write(dst[0][r*cols:][:cols], row, from, scale, finite)
	}
}

// write encodes elements that share a scale; finite says that all are.
func (s fp8) write(dst, src []byte, from dtype.Type, scale float32, finite bool) {
	if finite {
		kernel.fp8(dst, src, s.to, from, scale)
	} else {
		fp8Portable(dst, src, s.to, from, scale)
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
	for r := range rows {
		row := src[r*cols:][:cols]
		s.bound(dst[r*cols:], row, s.scale(finiteAbsmax(row)))
	}
}

// bound is Bound for values that share a scale.
func (s fp8) bound(dst []float64, values []float32, scale float32) {
	relative, smallest := 0x1p-4, 0x1p-10
	if s.to == dtype.F8E5M2 {
		relative, smallest = 0x1p-3, 0x1p-17
	}
	reach := float64(s.most()) * float64(scale) * rounded
	for i, x := range values {
		dst[i] = math.Inf(1)
		if x-x == 0 && reach < math.MaxFloat32 {
			dst[i] = max(math.Abs(float64(x))*relative, float64(scale)*smallest) * (1 + 0x1p-12)
		}
	}
}

// fp8Tensor is fp8 with one scale for the whole tensor (fp8_e4m3:scale=tensor),
// compressed-tensors' float-quantized with strategy tensor: a weight_scale [1].
type fp8Tensor struct {
	fp8
	whole
}

func (s fp8Tensor) Name() string { return s.fp8.Name() + ":scale=tensor" }

func (s fp8Tensor) fit(absmax float32) Scheme { return fp8Tensor{s.fp8, whole{absmax, true}} }

func (s fp8Tensor) Layout(from dtype.Type, cols int64) (Layout, error) {
	l, err := s.fp8.Layout(from, cols)
	if err != nil {
		return Layout{}, err
	}
	l.Scope, l.Planes[1].Shared = Tensor, true
	return l, nil
}

func (s fp8Tensor) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	src = src[:rows*cols*from.Size()]
	most, finite := absmaxOfFinite(src, from)
	if s.fitted {
		most = s.absmax
	}
	scale := s.scale(most)
	for r := range rows {
		binary.LittleEndian.PutUint32(dst[1][4*r:], math.Float32bits(scale))
	}
	s.write(dst[0][:rows*cols], src, from, scale, finite)
}

func (s fp8Tensor) Bound(dst []float64, src []float32, rows, cols int) {
	src = src[:rows*cols]
	s.bound(dst, src, s.scale(s.absmaxOfValues(src)))
}
