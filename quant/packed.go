package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// packed is int4, int2 and custom: integers of 2 to 8 bits with an F32 scale
// for each group of columns, in the layout that compressed-tensors calls
// pack-quantized: weight_packed, I32 [out, in × bits / 32], weight_scale, F32
// [out, in / group], and where it is not symmetric weight_zero_point.
//
//	symmetric:  scale = absmax / (2^bits - 1) × 2          zero = 0
//	otherwise:  scale = (max - min) / (2^bits - 1)         zero = roundHalfEven(-2^(bits-1) - min / scale)
//	q = roundHalfEven(clamp(x / scale + zero, -2^(bits-1), 2^(bits-1) - 1))
//	x ≈ (q - zero) × scale, off by at most scale / 2 and its rounding
//
// max and min are at least and at most 0, and a scale is at least 2⁻²³, as
// int8's. Column i of a row has bits [i × bits, (i + 1) × bits) of the row's
// words, low bits first, and holds q + 2^(bits-1); a row ends with whole words.
// (Versions before May 2026 began a code that did not fit a word in the next one:
// 3, 5, 6 and 7 bits lie otherwise there.)
// A row that is shorter than a group is one group, and with group 0 each row
// is. Zero points are kept as one I8 each; the published layout, which packs
// those of several rows into a word, is for export.
//
// Source: compressed-tensors, compressors/pack_quantized (pack_to_int32) and
// quantization/utils/helpers.py (calculate_qparams). Its scales are F16, BF16
// or F32; F32 for int8's reasons.
//
// A group that holds a NaN or an infinity gets the scale NaN and zeros.
type packed struct {
	name      string
	bits      int
	symmetric bool
	group     int // columns; 0: the row
}

func (s packed) Name() string { return s.name }

func (packed) Target() Target { return Linear }

// words returns the smallest run of columns that is whole I32 words, and how
// many of them.
func (s packed) words() (cols, words int) {
	for cols = 4; cols*s.bits%32 != 0; {
		cols *= 2
	}
	return cols, cols * s.bits / 32
}

func (s packed) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	run, words := s.words()
	if words == 1 { // the last word of a row need not be full
		run = 1
	}
	if err := checkCols(s, cols, int64(run)); err != nil {
		return Layout{}, err
	}
	l := Layout{Scope: Row, Align: 1}
	unit := int64(0)
	if s.group > 0 && cols > int64(s.group) {
		if err := checkCols(s, cols, int64(s.group)); err != nil {
			return Layout{}, err
		}
		l.Scope, l.Align, unit = Block, int64(s.group), int64(s.group)
	}
	full, _ := s.words()
	l.Align = lcm(l.Align, int64(full))
	l.Planes = []Plane{
		{Suffix: "_packed", DType: dtype.I32, Cols: int64(full), Unit: int64(4 * words)},
		{Role: Scales, Suffix: "_scale", DType: dtype.F32, Cols: unit, Unit: 4},
	}
	if !s.symmetric {
		l.Planes = append(l.Planes, Plane{Role: ZeroPoints, Suffix: "_zero_point", DType: dtype.I8, Cols: unit, Unit: 1})
	}
	return l, nil
}

// groups returns how many groups a row, or a part of one, has, and their
// columns.
func (s packed) groups(cols int) (n, size int) {
	if s.group == 0 || cols <= s.group {
		return 1, cols
	}
	return cols / s.group, s.group
}

// rowBytes returns the bytes of a row's words.
func (s packed) rowBytes(cols int) int { return (cols*s.bits + 31) / 32 * 4 }

func (s packed) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	n, size := s.groups(cols)
	in := size * from.Size()
	for r := range rows {
		w := bitWriter{out: dst[0][r*s.rowBytes(cols):][:s.rowBytes(cols)]}
		for g := range n {
			at := r*n + g
			group := src[at*in:][:in]
			scale, zero := s.params(group, from)
			binary.LittleEndian.PutUint32(dst[1][4*at:], math.Float32bits(scale))
			if !s.symmetric {
				dst[2][at] = byte(int8(zero))
			}
			s.write(&w, group, from, scale, zero)
		}
		w.flush()
	}
}

// params chooses a group's scale and zero point.
func (s packed) params(group []byte, from dtype.Type) (scale, zero float32) {
	steps := float32(int(1)<<s.bits - 1)
	if s.symmetric {
		absmax := kernel.absmax(group, from)
		if absmax >= infBits {
			return math.Float32frombits(nanBits), 0
		}
		return max(float32(math.Float32frombits(absmax)/(steps/2)), int8MinScale), 0
	}
	least, most, finite := rangeWithZero(group, from)
	if !finite {
		return math.Float32frombits(nanBits), 0
	}
	scale = max(stepOf(least, most, steps), int8MinScale)
	low := -float32(int(1) << (s.bits - 1))
	return scale, roundEven(low - float32(least/scale))
}

// write appends a group's codes.
func (s packed) write(w *bitWriter, group []byte, from dtype.Type, scale, zero float32) {
	if n := len(group) / from.Size() / tile * tile; s.bits == 4 && w.bits == 0 && scale == scale {
		kernel.int4(w.out[:n/2], group[:n*from.Size()], from, scale, zero)
		w.out, group = w.out[n/2:], group[n*from.Size():]
	}
	half := float32(int(1) << (s.bits - 1))
	var f [tile]float32
	for len(group) > 0 {
		n := nextTile(&f, &group, from)
		for _, x := range f[:n] {
			var q float32
			if scale == scale {
				q = roundEven(min(max(float32(x/scale)+zero, -half), half-1))
			}
			w.put(uint32(q+half), s.bits)
		}
	}
}

// int4Portable writes codes of 4 bits of whole tiles of finite elements, two
// in a byte, the first one low.
func int4Portable(dst, src []byte, from dtype.Type, scale, zero float32) {
	var f [tile]float32
	for in := tile * from.Size(); len(src) >= in; src, dst = src[in:], dst[tile/2:] {
		loadTile(&f, src, from)
		out := (*[tile / 2]byte)(dst)
		for i := range out {
			out[i] = int4Code(f[2*i], scale, zero) | int4Code(f[2*i+1], scale, zero)<<4
		}
	}
}

func int4Code(x, scale, zero float32) byte {
	return byte(int32(roundEven(min(max(float32(x/scale)+zero, -8), 7))) + 8)
}

func (s packed) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	n, size := s.groups(cols)
	half, mask := 1<<(s.bits-1), uint64(1)<<s.bits-1
	for r := range rows {
		words := src[0][r*s.rowBytes(cols):]
		var held uint64
		var have int
		for g := range n {
			at := r*n + g
			scale := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*at:]))
			zero := half
			if !s.symmetric {
				zero += int(int8(src[2][at]))
			}
			out := dst[at*size:][:size]
			for i := range out {
				if have < s.bits {
					held |= uint64(binary.LittleEndian.Uint32(words)) << have
					words, have = words[4:], have+32
				}
				out[i] = float32(float32(int(held&mask)-zero) * scale)
				held, have = held>>s.bits, have-s.bits
			}
		}
	}
}

func (s packed) Bound(dst []float64, src []float32, rows, cols int) {
	_, size := s.groups(cols)
	steps := float64(int(1)<<s.bits - 1)
	boundRuns(dst, src[:rows*cols], size, func(group []float32) float64 {
		least, most := bounds(group)
		width := float64(max(most, 0)) - float64(min(least, 0))
		if s.symmetric {
			width = 2 * absmax(group)
		}
		return halfStep(max(width/steps, int8MinScale), steps)
	})
}
