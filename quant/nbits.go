package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// nbits is ort_nbits4 and ort_nbits8: the constants of ONNX Runtime's
// MatMulNBits, 4 or 8 bits and an F32 scale for each block of columns: B, U8
// [N, blocks, bytes of a block], scales [N, blocks], and zero points, U8 [N,
// bytes of the row's], where it is not symmetric. Of two values or zero points
// in a byte the first has the low four bits. The last block of a row may be
// short; its codes are filled up with those of zero.
//
//	symmetric: scale = -m / 2^(bits-1), where m is the value of the largest magnitude; zero = 2^(bits-1)
//	otherwise: scale = (max - min) / (2^bits - 1), zero = round(-min / scale), max ≥ 0 ≥ min
//	q = clamp(round(x × (1 / scale) + zero), 0, 2^bits - 1), half away from zero
//	x ≈ (q - zero) × scale, off by at most |scale| and its rounding, half of it where not symmetric
//
// Symmetric, the whole step is for values of the other sign than m, which end
// one step short of it.
//
// Source: ONNX Runtime, docs/ContribOperators.md (com.microsoft.MatMulNBits)
// and core/mlas/lib/q4_dq.cpp (BlockwiseQuantizer, range2scale, range2scalezp).
// What that leaves open: where 1 / scale overflows F32 all codes are zero's,
// and a block that holds a NaN or an infinity gets the scale NaN and those
// codes too.
type nbits struct {
	bits      int
	block     int // columns: a power of two from 16 on
	symmetric bool
}

const nbitsBlock = 32 // the default

// NBits returns the bits and the block of a scheme in MatMulNBits' layout,
// with or without the originals beside it; false for other schemes.
func NBits(s Scheme) (bits, block int, ok bool) {
	if o, kept := s.(original); kept {
		s = o.Scheme
	}
	n, ok := s.(nbits)
	return n.bits, n.block, ok
}

func (s nbits) base() string { return fmt.Sprintf("ort_nbits%d", s.bits) }

func (s nbits) Name() string {
	if s.block == nbitsBlock && s.symmetric {
		return s.base()
	}
	return fmt.Sprintf("%s:block=%d,symmetric=%t", s.base(), s.block, s.symmetric)
}

func (nbits) Target() Target { return Linear }

func (nbits) form() (params, defaults string) {
	return "block=16..256,symmetric=true|false", "32,true"
}

func (s nbits) with(key, value string) (Scheme, error) {
	var err error
	switch key {
	case "block":
		if s.block, err = parseInt(value, 16, 256); err == nil && s.block&(s.block-1) != 0 {
			err = fmt.Errorf("want a power of two")
		}
	case "symmetric":
		s.symmetric, err = parseBool(value)
	default:
		err = fmt.Errorf("want block or symmetric")
	}
	return s, err
}

func (s nbits) Layout(from dtype.Type, cols int64) (Layout, error) {
	if err := checkFloat(s, from); err != nil {
		return Layout{}, err
	}
	if err := checkCols(s, cols, 1); err != nil {
		return Layout{}, err
	}
	block := int64(s.block)
	l := Layout{Align: block, Planes: []Plane{
		{DType: dtype.U8, Cols: block, Unit: block * int64(s.bits) / 8},
		{Role: Scales, Suffix: "_scales", DType: dtype.F32, Cols: block, Unit: 4},
	}}
	if !s.symmetric {
		zeros := Plane{Role: ZeroPoints, Suffix: "_zero_points", DType: dtype.U8, Cols: block * int64(8/s.bits), Unit: 1}
		l.Planes, l.Align = append(l.Planes, zeros), zeros.Cols
	}
	return l, nil
}

// sizes returns the blocks of a row or a part of one, the bytes of each, and
// the bytes of the row's zero points.
func (s nbits) sizes(cols int) (blocks, bytes, zeros int) {
	blocks = (cols + s.block - 1) / s.block
	return blocks, s.block * s.bits / 8, (blocks*s.bits + 7) / 8
}

func (s nbits) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	if s.symmetric && s.block == nbitsBlock && cols%nbitsBlock == 0 {
		n := rows * cols / nbitsBlock
		kernel.nbits(dst[0][:n*nbitsBlock*s.bits/8], dst[1][:4*n], src[:n*nbitsBlock*from.Size()], s.bits, from)
		return
	}
	s.encode(dst, src, from, rows, cols)
}

// nbitsPortable encodes whole symmetric blocks of 32.
func nbitsPortable(codes, scales, src []byte, bits int, from dtype.Type) {
	s := nbits{bits: bits, block: nbitsBlock, symmetric: true}
	s.encode([][]byte{codes, scales}, src, from, 1, len(scales)/4*nbitsBlock)
}

func (s nbits) encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	blocks, bytes, zeros := s.sizes(cols)
	size := from.Size()
	for r := range rows {
		row := src[r*cols*size:][:cols*size]
		zero := bitWriter{}
		if !s.symmetric {
			zero.out = dst[2][r*zeros:][:zeros]
		}
		for b := range blocks {
			at := r*blocks + b
			block := row[b*s.block*size : min((b+1)*s.block, cols)*size]
			scale, z := s.params(block, from)
			binary.LittleEndian.PutUint32(dst[1][4*at:], math.Float32bits(scale))
			if !s.symmetric {
				zero.put(uint32(z), s.bits)
			}
			s.write(dst[0][at*bytes:][:bytes], block, from, scale, z)
		}
		if !s.symmetric {
			zero.flush()
		}
	}
}

// params chooses a block's scale and zero point.
func (s nbits) params(block []byte, from dtype.Type) (scale, zero float32) {
	half := float32(int(1) << (s.bits - 1))
	least, most, finite := rangeOf(block, from)
	switch {
	case !finite:
		return math.Float32frombits(nanBits), half
	case s.symmetric:
		if abs(most) <= abs(least) {
			most = least
		}
		return -most / half, half
	}
	least, most = min(least, 0), max(most, 0)
	scale = stepOf(least, most, 2*half-1)
	if scale == 0 {
		return 0, 0
	}
	return scale, min(roundAway(-float32(least/scale)), 2*half-1)
}

// write fills a block with codes.
func (s nbits) write(out, block []byte, from dtype.Type, scale, zero float32) {
	w := bitWriter{out: out}
	most := float32(int(1)<<s.bits - 1)
	inverse := inverse(scale)
	var f [tile]float32
	for at := 0; at < s.block; at += tile {
		n := 0
		if len(block) > 0 {
			n = nextTile(&f, &block, from)
		}
		for i := range min(tile, s.block-at) {
			q := zero
			if i < n && abs(inverse) <= math.MaxFloat32 {
				q = min(max(roundAway(float32(f[i]*inverse)+zero), 0), most)
			}
			w.put(uint32(q), s.bits)
		}
	}
}

func (s nbits) Decode(dst []float32, src [][]byte, _ dtype.Type, rows, cols int) {
	blocks, bytes, zeros := s.sizes(cols)
	code := func(b []byte, i int) int { return int(b[i*s.bits/8]>>(i*s.bits%8)) & (1<<s.bits - 1) }
	for r := range rows {
		row := dst[r*cols:][:cols]
		for b := range blocks {
			at := r*blocks + b
			scale := math.Float32frombits(binary.LittleEndian.Uint32(src[1][4*at:]))
			zero := 1 << (s.bits - 1)
			if !s.symmetric {
				zero = code(src[2][r*zeros:], b)
			}
			codes := src[0][at*bytes:][:bytes]
			for i := range min(s.block, cols-b*s.block) {
				row[b*s.block+i] = float32(float32(code(codes, i)-zero) * scale)
			}
		}
	}
}

func (s nbits) Bound(dst []float64, src []float32, rows, cols int) {
	half := float64(int(1) << (s.bits - 1))
	bound := func(block []float32) float64 {
		least, most := bounds(block)
		step := (float64(max(most, 0)) - float64(min(least, 0))) / (2*half - 1)
		if s.symmetric {
			step = 2 * absmax(block) / half
		}
		if step < 0x1p-120 { // where steps, or their inverses, have few bits
			return absmax(block) + step
		}
		return halfStep(step, 2*half)
	}
	for r := range rows {
		for at := 0; at < cols; at += s.block {
			n := min(s.block, cols-at)
			at := r*cols + at
			boundRuns(dst[at:at+n], src[at:at+n], n, bound)
		}
	}
}
