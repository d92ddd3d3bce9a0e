package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// sign is binary: the signs of values and the mean of their magnitudes for
// each group of 128 columns, or for the row where that is shorter. Of all
// scales this one leaves the least Σ (x - x')².
//
//	scale = Σ |x| / n, the sum in float64 and in order
//	bit   = 1 where x ≥ 0, -0 included
//	x ≈ scale where the bit is 1, else -scale, off by at most absmax
//
// Column i is bit i % 32 of word i / 32 of its row; a row ends with a whole
// word. There is no published file layout: compressed-tensors' one-bit
// integers are -1 and 0. Source: Rastegari et al., "XNOR-Net", 2016, section
// 3.1, with a scale for each group instead of each filter.
//
// A group that holds a NaN or an infinity gets the scale NaN and ones.
type sign struct{}

const signGroup = 128

func (sign) Name() string { return "binary" }

func (sign) Target() Target { return Linear }

func (s sign) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	l := Layout{Scope: Row, Align: 32}
	var unit int64
	if cols > signGroup {
		if err := checkCols(s, cols, signGroup); err != nil {
			return Layout{}, err
		}
		l.Scope, l.Align, unit = Block, signGroup, signGroup
	} else if err := checkCols(s, cols, 1); err != nil {
		return Layout{}, err
	}
	l.Planes = []Plane{
		{Suffix: "_packed", DType: dtype.I32, Cols: 32, Unit: 4},
		{Role: Scales, Suffix: "_scale", DType: dtype.F32, Cols: unit, Unit: 4},
	}
	return l, nil
}

func (sign) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	size := min(cols, signGroup)
	words, in := (size+31)/32*4, size*from.Size()
	for i := range rows * cols / max(size, 1) {
		group := src[i*in:][:in]
		out := dst[0][i*words:][:words]
		var f [tile]float32
		var sum float64
		finite := true
		for len(group) > 0 {
			n := nextTile(&f, &group, from)
			var bits uint32
			for j, x := range f[:n] {
				sum += math.Abs(float64(x))
				if x >= 0 {
					bits |= 1 << j
				}
			}
			finite = finite && tileAbsmax(&f) < infBits
			binary.LittleEndian.PutUint32(out, bits)
			out = out[4:]
		}
		scale := float32(sum / float64(size))
		if !finite {
			scale = math.Float32frombits(nanBits)
			for j := range size {
				dst[0][i*words+j/8] |= 1 << (j % 8)
			}
		}
		binary.LittleEndian.PutUint32(dst[1][4*i:], math.Float32bits(scale))
	}
}

func (sign) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	size := min(cols, signGroup)
	words := (size + 31) / 32 * 4
	for i := range rows * cols / max(size, 1) {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*i:]))
		bits := src[0][i*words:][:words]
		out := dst[i*size:][:size]
		for j := range out {
			out[j] = -scale
			if bits[j/8]>>(j%8)&1 == 1 {
				out[j] = scale
			}
		}
	}
}

func (sign) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], min(cols, signGroup), func(group []float32) float64 {
		return absmax(group) * rounded
	})
}
