package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// nf4 is bitsandbytes' NormalFloat4 (Dettmers et al., "QLoRA", 2023): 16 levels
// at the quantiles of a normal distribution, and an F32 absmax for each block
// of 64 values. A byte has value 2i in its high and value 2i+1 in its low four
// bits. Blocks run along rows, which is how bitsandbytes has them too where
// rows divide into blocks.
//
//	q = the level nearest to x × (1 / max(absmax, 1e-38)), the lower one of two as near
//	x ≈ absmax × level(q), off by at most 0.152 × absmax, half of the widest gap
//
// Source: bitsandbytes, backends/default/ops.py (quantize_4bit,
// dequantize_4bit), csrc/kernels.cu (dQuantizeNF4), functional.py (QuantState:
// the names that a file has). Absmax is not quantized again ("double
// quantization" is its option).
//
// A block that holds a NaN or an infinity gets the absmax NaN and the codes of
// zero.
type nf4 struct{}

// NF4Block is the number of values that share an absmax.
const NF4Block = 64

const (
	nf4Zero      = 7     // the code of level 0
	nf4MinAbsmax = 1e-38 // whose inverse F32 holds
)

var nf4Levels = [16]float32{
	-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
	-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
	0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
}

// NF4Levels returns the values of the codes.
func NF4Levels() [16]float32 { return nf4Levels }

// nf4Middles are halfway between each level and the next, rounded as
// dQuantizeNF4 has them.
var nf4Middles = [15]float32{
	-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
	-0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
	0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
	0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
}

func (nf4) Name() string { return "nf4" }

func (nf4) Target() Target { return Linear }

func (s nf4) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, NF4Block); err != nil {
		return Layout{}, err
	}
	return Layout{Align: NF4Block, Planes: []Plane{
		{DType: dtype.U8, Cols: 2, Unit: 1},
		{Role: Scales, Suffix: ".absmax", DType: dtype.F32, Cols: NF4Block, Unit: 4},
	}}, nil
}

func (nf4) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	in := NF4Block * from.Size()
	for i := range rows * cols / NF4Block {
		block := src[i*in:][:in]
		out := dst[0][i*NF4Block/2:][:NF4Block/2]
		most := kernel.absmax(block, from)
		if most >= infBits {
			most = nanBits
			for j := range out {
				out[j] = nf4Zero<<4 | nf4Zero
			}
		} else {
			kernel.nf4(out, block, from, 1/max(math.Float32frombits(most), nf4MinAbsmax))
		}
		binary.LittleEndian.PutUint32(dst[1][4*i:], most)
	}
}

func nf4Portable(dst, src []byte, from dtype.Type, factor float32) {
	var f [tile]float32
	for len(src) > 0 {
		nextTile(&f, &src, from)
		for j := range tile / 2 {
			dst[j] = nf4Code(float32(f[2*j]*factor))<<4 | nf4Code(float32(f[2*j+1]*factor))
		}
		dst = dst[tile/2:]
	}
}

// nf4Code returns how many middles are below y. It compares integers that are
// ordered as the floats are, so that no branch depends on values.
func nf4Code(y float32) uint8 {
	k := floatOrder(y)
	var n int64
	for i := range nf4Order {
		n += (nf4Order[i] - k) >> 63 & 1
	}
	return uint8(n)
}

// floatOrder returns an integer that is ordered as finite floats are.
func floatOrder(y float32) int64 {
	b := int32(math.Float32bits(y))
	return int64(b ^ int32(uint32(b>>31)>>1))
}

var nf4Order = func() (o [15]int64) {
	for i, m := range nf4Middles {
		o[i] = floatOrder(m)
	}
	return o
}()

func (nf4) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	for i := range rows * cols / NF4Block {
		absmax := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*i:]))
		out := (*[NF4Block]float32)(dst[i*NF4Block:])
		for j, q := range src[0][i*NF4Block/2:][:NF4Block/2] {
			out[2*j] = float32(nf4Levels[q>>4] * absmax)
			out[2*j+1] = float32(nf4Levels[q&15] * absmax)
		}
	}
}

func (nf4) Bound(dst []float64, src []float32, rows, cols int) {
	widest := float64(nf4Levels[1]-nf4Levels[0]) / 2
	boundRuns(dst, src[:rows*cols], NF4Block, func(block []float32) float64 {
		m := absmax(block)
		if m < nf4MinAbsmax {
			return m
		}
		return m * widest * rounded
	})
}
