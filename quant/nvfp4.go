package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// nvfp4 is FP4 (E2M1) with an E4M3 scale for each block of 16 columns and one
// F32 scale for the tensor, in the layout that compressed-tensors calls
// nvfp4-pack-quantized: weight_packed, U8 [out, in / 2], value 2i in the low
// and value 2i+1 in the high four bits; weight_scale, F8_E4M3 [out, in / 16];
// weight_global_scale, F32 [1].
//
//	global = 448 × 6 / max(absmax of the tensor, 2⁻¹²⁶), 1 where that overflows
//	scale  = E4M3(min(absmax of the block / 6 × global, 448)), 0.125 for 0
//	q      = the FP4 nearest to clamp(x / (scale / global), -6, 6), ties to even
//	x      ≈ q × (scale / global), off by at most 0.18 × the block's absmax
//
// The bound is half of the gap from 4 to 6; where the scale is a denormal E4M3,
// in blocks 30,000 times smaller than the largest value, it is larger.
//
// Source: compressed-tensors, quantization/utils/helpers.py (generate_gparam,
// calculate_qparams), quant_args.py (FP4_E2M1_DATA.cast_to_fp4),
// compressors/nvfp4 (pack_fp4_to_uint8).
//
// The tensor's absmax is of its finite values. A block that holds a NaN or an
// infinity gets the scale NaN and zeros.
type nvfp4 struct{ whole }

const (
	nvfp4Block    = 16
	nvfp4Most     = 6    // of E2M1
	nvfp4NoScale  = 0x20 // 0.125 as E4M3
	nvfp4NaNScale = 0x7f
	minNormal     = 0x1p-126 // of F32
)

// nvfp4Values are the magnitudes of the codes; bit 3 is the sign.
var nvfp4Values = [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}

func (nvfp4) Name() string { return "nvfp4" }

func (nvfp4) Target() Target { return Linear }

func (s nvfp4) fit(absmax float32) Scheme { return nvfp4{whole{absmax, true}} }

func (s nvfp4) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, nvfp4Block); err != nil {
		return Layout{}, err
	}
	return Layout{Align: nvfp4Block, Scope: Tensor, Planes: []Plane{
		{Suffix: "_packed", DType: dtype.U8, Cols: 2, Unit: 1},
		{Role: Scales, Suffix: "_scale", DType: dtype.F8E4M3, Cols: nvfp4Block, Unit: 1},
		{Role: GlobalScale, Suffix: "_global_scale", DType: dtype.F32, Unit: 4, Shared: true},
	}}, nil
}

func (s nvfp4) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	src = src[:rows*cols*from.Size()]
	global := nvfp4Global(s.absmaxOf(src, from))
	for r := range rows {
		binary.LittleEndian.PutUint32(dst[2][4*r:], math.Float32bits(global))
	}
	var f [tile]float32
	codes, scales := dst[0], dst[1]
	for len(src) > 0 {
		for block := f[:nextTile(&f, &src, from)]; len(block) > 0; block = block[nvfp4Block:] {
			scales[0] = nvfp4Encode((*[nvfp4Block / 2]byte)(codes), (*[nvfp4Block]float32)(block), global)
			codes, scales = codes[nvfp4Block/2:], scales[1:]
		}
	}
}

// nvfp4Encode encodes a block and returns its scale.
func nvfp4Encode(out *[nvfp4Block / 2]byte, x *[nvfp4Block]float32, global float32) uint8 {
	var most uint32
	for _, v := range x {
		most = max(most, math.Float32bits(v)&^(1<<31))
	}
	scale := nvfp4Scale(most, global)
	if scale == nvfp4NaNScale {
		clear(out[:])
		return scale
	}
	step := dtype.F8E4M3ToF32(scale) / global
	for j := range out {
		out[j] = nvfp4Code(float32(x[2*j]/step)) | nvfp4Code(float32(x[2*j+1]/step))<<4
	}
	return scale
}

// nvfp4Global returns the tensor's scale.
func nvfp4Global(absmax float32) float32 {
	g := dtype.MaxF8E4M3 * nvfp4Most / max(absmax, minNormal)
	if g > math.MaxFloat32 {
		return 1
	}
	return g
}

// nvfp4Scale returns the scale of a block, as E4M3, from the F32 bits of its
// largest magnitude.
func nvfp4Scale(absmax uint32, global float32) uint8 {
	if absmax >= infBits {
		return nvfp4NaNScale
	}
	s := dtype.F32ToF8E4M3(min(float32(math.Float32frombits(absmax)/nvfp4Most)*global, dtype.MaxF8E4M3))
	if s == 0 {
		return nvfp4NoScale
	}
	return s
}

// nvfp4Code returns the code nearest to y, of two as near the even one; what is
// larger than 6 becomes 6. Only a y under 0 has the sign. No branch depends on
// y.
func nvfp4Code(y float32) uint8 {
	const magic = 1 << 22 // whose last place is a half
	b := math.Float32bits(y)
	magnitude := min(math.Float32frombits(b&^(1<<31)), nvfp4Most)
	m := math.Float32bits(magnitude)
	under1 := math.Float32bits(magnitude+magic) - math.Float32bits(magic)
	from1 := (m + 0x1fffff + m>>22&1 - 126<<23) >> 22 // rounded to one bit of fraction
	is := uint32(int32(m-math.Float32bits(1)) >> 31)  // all ones where it is under 1
	sign := b >> 31 & (-m >> 31) << 3                 // m is not 0
	return uint8(under1&is | from1&^is | sign)
}

func (nvfp4) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for r := range rows {
		global := math.Float32frombits(binary.LittleEndian.Uint32(src[2][4*r:]))
		for b := range cols / nvfp4Block {
			i := r*cols/nvfp4Block + b
			step := dtype.F8E4M3ToF32(src[1][i]) / global
			out := dst[i*nvfp4Block:][:nvfp4Block]
			for j, q := range src[0][i*nvfp4Block/2:][:nvfp4Block/2] {
				out[2*j], out[2*j+1] = nvfp4Value(q&15, step), nvfp4Value(q>>4, step)
			}
		}
	}
}

func nvfp4Value(code uint8, step float32) float32 {
	v := nvfp4Values[code&7]
	if code&8 != 0 {
		v = -v
	}
	return float32(v * step)
}

func (s nvfp4) Bound(dst []float64, src []float32, rows, cols int) {
	src = src[:rows*cols]
	global := nvfp4Global(s.absmaxOfValues(src))
	boundRuns(dst, src, nvfp4Block, func(block []float32) float64 {
		m := absmax(block)
		step := float64(dtype.F8E4M3ToF32(nvfp4Scale(math.Float32bits(float32(m)), global)) / global)
		if nvfp4Most*step*rounded >= math.MaxFloat32 {
			return math.Inf(1)
		}
		return max(step, m-nvfp4Most*step) * (1 + 0x1p-12)
	})
}
