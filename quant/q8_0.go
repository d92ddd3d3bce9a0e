package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// q8_0 is ggml's block_q8_0: 32 values in 34 bytes, an F16 scale d and 32
// int8.
//
//	d = absmax / 127, stored as F16
//	q = round(x × (1/d)), half away from zero, with d as F32
//	x ≈ d × q, off by at most d / 2 and the rounding of d to F16
//
// It equals quantize_row_q8_0_ref of ggml/src/ggml-quants.c byte for byte on
// finite input. What that leaves to the compiler is defined here:
//
//   - Where 1/d overflows F32 (absmax under about 3.7e-37) all q are 0. d as
//     F16 is 0 long before that (absmax under 3.8e-6), so the block decodes to
//     zeros anyway.
//   - Where d overflows F16 (absmax over 8.3e6) d is stored as an infinity, as
//     the reference does.
//   - A block that holds a NaN or an infinity gets d = NaN (0x7e00) and zeros:
//     it decodes to NaN as a whole, rather than to something plausible. An F64
//     that overflows F32 counts as an infinity.
type q8_0 struct{}

const (
	q8Block = 32 // values in a block
	q8Bytes = 34 // bytes of a block
	q8Range = 127

	nan16 = 0x7e00 // the F16 NaN that stands for a block that is not finite

	// q8MinBits are the F32 bits of the smallest absmax whose 1/d is finite.
	q8MinBits = 0x02fe0004
	// halfDown is the F32 before 0.5: y + halfDown, cut off, rounds y ≥ 0 half
	// up, and 0.49999997 still down.
	halfDown = 0x1.fffffep-2
)

func (q8_0) Name() string { return "q8_0" }

func (q8_0) Target() Target { return Matrices }

func (s q8_0) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, q8Block); err != nil {
		return Layout{}, err
	}
	return Layout{Align: q8Block, Planes: []Plane{{DType: dtype.U8, Cols: q8Block, Unit: q8Bytes}}}, nil
}

func (q8_0) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks := rows * cols / q8Block
	kernel.q8(dst[0][:blocks*q8Bytes], src[:blocks*q8Block*from.Size()], from)
}

func (q8_0) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	blocks := src[0]
	for i := range rows * cols / q8Block {
		b := (*[q8Bytes]byte)(blocks[i*q8Bytes:])
		d := dtype.F16ToF32(binary.LittleEndian.Uint16(b[:]))
		out := (*[q8Block]float32)(dst[i*q8Block:])
		for j := range out {
			out[j] = float32(float32(int8(b[2+j])) * d)
		}
	}
}

// q8Scales returns a block's d as stored and 1/d, from the F32 bits of its
// largest magnitude. An inverse of 0 means that all q are 0.
func q8Scales(absmax uint32) (d16 uint16, inverse float32) {
	if absmax >= infBits {
		return nan16, 0
	}
	d := float32(math.Float32frombits(absmax) / q8Range)
	if absmax >= q8MinBits {
		inverse = float32(1 / d)
	}
	return dtype.F32ToF16(d), inverse
}

func (q8_0) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], q8Block, func(block []float32) float64 {
		d := absmax(block) / q8Range
		return d/2*rounded + halfSteps(d, q8Range)
	})
}
