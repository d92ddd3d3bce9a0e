package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// What ggml's types have in common. A row is a run of blocks of 32 values, or
// of 256 in the K types. Encode equals the reference, quantize_row_TYPE_ref of
// ggml/src/ggml-quants.c, byte for byte on finite input, and Decode equals
// dequantize_row_TYPE. Each operation rounds to F32 by itself, in the
// reference's order: products are wrapped in float32(), so that none is fused
// with a sum.
//
// What the reference leaves open is the same for all of them:
//
//   - A block that holds a NaN or an infinity gets the scale NaN (0x7e00) and
//     zeros else: it decodes to NaN as a whole, rather than to something
//     plausible. An F64 that overflows F32 counts as an infinity.
//   - A scale that overflows F16 is stored as an infinity, as the reference
//     does.
//   - What does not fit an integer on the way (where 1/d overflows F32) has
//     the low byte 0, as x86's conversion does.

const (
	blockLen = 32
	superLen = 256 // values in a block of a K type
)

// blockLayout is the layout of blocks of n values in size bytes.
func blockLayout(s Scheme, from dtype.Type, cols, n, size int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, n); err != nil {
		return Layout{}, err
	}
	return Layout{Align: n, Planes: []Plane{{DType: dtype.U8, Cols: n, Unit: size}}}, nil
}

// loadBlock reads block i of src and reports whether all of it is finite.
func loadBlock(x *[blockLen]float32, src []byte, i int, from dtype.Type) bool {
	loadTile(x, src[i*blockLen*from.Size():], from)
	return tileAbsmax(x) < infBits
}

// loadSuper is loadBlock for the blocks of the K types.
func loadSuper(x *[superLen]float32, src []byte, i int, from dtype.Type) bool {
	return kernel.loadSuper(x, src[i*superLen*from.Size():], from)
}

func loadSuperPortable(x *[superLen]float32, src []byte, from dtype.Type) bool {
	finite := true
	for i := range superLen / blockLen {
		finite = loadBlock((*[blockLen]float32)(x[i*blockLen:]), src, i, from) && finite
	}
	return finite
}

// spoil fills a block that is not finite; its F16 scale is at byte d.
func spoil(block []byte, d int) {
	clear(block)
	putHalf(block[d:], math.Float32frombits(nanBits))
}

func putHalf(b []byte, f float32) { binary.LittleEndian.PutUint16(b, dtype.F32ToF16(f)) }

func half(b []byte) float32 { return dtype.F16ToF32(binary.LittleEndian.Uint16(b)) }

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// signedMax returns the first value of the largest magnitude, and that.
func signedMax(x []float32) (value, most float32) {
	for _, v := range x {
		if a := abs(v); a > most {
			value, most = v, a
		}
	}
	return value, most
}

// bounds returns the smallest and the largest value, of equal ones the first,
// so that -0 and 0 keep their order.
func bounds(x []float32) (least, most float32) {
	least, most = x[0], x[0]
	for _, v := range x {
		if v < least {
			least = v
		}
		if v > most {
			most = v
		}
	}
	return least, most
}

// inverse is 1/d, and 0 for 0.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

// lowByte cuts y off to an integer and returns its low byte: 0 where no int32
// holds it.
func lowByte(y float32) uint8 {
	if y > -0x1p31 && y < 0x1p31 {
		return uint8(int32(y))
	}
	return 0
}
