package quant

import (
	"math"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
)

// cast turns floats into another float type: f32, f16, bf16. It rounds once,
// to nearest, ties to even, from F64 too; what is too large becomes an
// infinity, and a NaN stays a quiet NaN (dtype/half.go). Where the types are
// equal it keeps the bytes.
//
// Error bound, half a step, where the value is in the target's normal range:
// |x|·2⁻¹¹ for f16, |x|·2⁻⁸ for bf16, |x|·2⁻²⁴ for f32 from F64. f16 is off by
// at most 2⁻²⁵ below that range, bf16 by 2⁻¹³⁴.
type cast struct {
	to dtype.Type
}

func (c cast) Name() string { return strings.ToLower(c.to.String()) }

func (cast) Target() Target { return Floats }

func (c cast) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(c, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(c, cols, 1); err != nil {
		return Layout{}, err
	}
	return Layout{Align: 1, Planes: []Plane{{DType: c.to, Cols: 1, Unit: int64(c.to.Size())}}}, nil
}

func (c cast) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	n := rows * cols
	convert(dst[0][:n*c.to.Size()], src[:n*from.Size()], c.to, from)
}

// convert writes the elements of src, of float type from, to dst as type to.
// The slices hold the same number of elements.
func convert(dst, src []byte, to, from dtype.Type) {
	if to == from {
		copy(dst, src)
		return
	}
	kernel.cast(dst, src, to, from)
}

func (c cast) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	decodeFloats(dst[:rows*cols], src[0], c.to)
}

func (c cast) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], 1, func(x []float32) float64 {
		switch m := absmax(x); {
		case c.to == dtype.F32:
			return 0
		case c.to == dtype.BF16 && m < 0x1.ffp127: // halfway between BF16's largest and 2¹²⁸
			return max(m*0x1p-8, 0x1p-134)
		case c.to == dtype.F16 && m < maxHalf:
			return max(m*0x1p-11, 0x1p-25)
		}
		return math.Inf(1)
	})
}
