//go:build !purego

package quant

import (
	"math"

	"github.com/klauspost/cpuid/v2"

	"github.com/gantry-ml/gantry/dtype"
)

// twins returns the kernels that run on this machine, the fastest last.
func twins() []kernels {
	all := []kernels{portable}
	if cpuid.CPU.Supports(cpuid.AVX2, cpuid.FMA3, cpuid.F16C) {
		all = append(all, avx2.kernels())
	}
	if cpuid.CPU.Supports(cpuid.AVX2, cpuid.FMA3, cpuid.F16C, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL) {
		all = append(all, avx512.kernels())
	}
	return all
}

// routines are the assembly loops of one instruction set. They take whole
// turns only; the drivers here give them those and finish in portable Go,
// which does the types (F64) and the small inputs that have no routine too.
type routines struct {
	name   string
	cast   byType[byType[loop]] // by from, then to
	q8     byType[loop]
	absmax byType[absmaxLoop]
	int8   byType[divideLoop]

	q4_0, q4_1, q5_0, q5_1 byType[blocksLoop]
}

// blocksTile is the number of blocks that one turn of a blocksLoop takes.
const blocksTile = 32

// absmaxStep is the bytes of src that one turn of absmax takes.
const absmaxStep = 4 * 32

type (
	loop       = func(dst, src *byte, n int)
	absmaxLoop = func(src *byte, n int) uint32
	divideLoop = func(dst, src *byte, n int, scale float32)
	// blocksLoop encodes up to n blocks and returns how many: less than a tile
	// is left, or the next tile holds what only the portable kernel does.
	blocksLoop = func(dst, src *byte, n int) int
)

// byType holds a routine for each source type; nil where there is none.
type byType[T any] [dtype.U64 + 1]T

var avx2 = routines{
	name: "avx2",
	cast: byType[byType[loop]]{
		dtype.F32:  {dtype.F16: castF32ToF16AVX2, dtype.BF16: castF32ToBF16AVX2},
		dtype.F16:  {dtype.F32: castF16ToF32AVX2, dtype.BF16: castF16ToBF16AVX2},
		dtype.BF16: {dtype.F32: castBF16ToF32AVX2, dtype.F16: castBF16ToF16AVX2},
	},
	q8: byType[loop]{
		dtype.F32: q8F32AVX2, dtype.F16: q8F16AVX2, dtype.BF16: q8BF16AVX2,
	},
	absmax: byType[absmaxLoop]{
		dtype.F32: absmaxF32AVX2, dtype.F16: absmaxF16AVX2, dtype.BF16: absmaxBF16AVX2,
	},
	int8: byType[divideLoop]{
		dtype.F32: int8F32AVX2, dtype.F16: int8F16AVX2, dtype.BF16: int8BF16AVX2,
	},
	q4_0: byType[blocksLoop]{
		dtype.F32: q4_0F32AVX2, dtype.F16: q4_0F16AVX2, dtype.BF16: q4_0BF16AVX2,
	},
	q4_1: byType[blocksLoop]{
		dtype.F32: q4_1F32AVX2, dtype.F16: q4_1F16AVX2, dtype.BF16: q4_1BF16AVX2,
	},
	q5_0: byType[blocksLoop]{
		dtype.F32: q5_0F32AVX2, dtype.F16: q5_0F16AVX2, dtype.BF16: q5_0BF16AVX2,
	},
	q5_1: byType[blocksLoop]{
		dtype.F32: q5_1F32AVX2, dtype.F16: q5_1F16AVX2, dtype.BF16: q5_1BF16AVX2,
	},
}

// avx512 is avx2 but for the loops that twice the width makes faster.
var avx512 = func() routines {
	r := avx2
	r.name = "avx512"
	r.cast[dtype.F32][dtype.F16] = castF32ToF16AVX512
	r.cast[dtype.F32][dtype.BF16] = castF32ToBF16AVX512
	r.cast[dtype.BF16][dtype.F16] = castBF16ToF16AVX512
	r.q8[dtype.F32] = q8F32AVX512
	r.q8[dtype.BF16] = q8BF16AVX512
	r.int8[dtype.BF16] = int8BF16AVX512
	r.q4_0 = byType[blocksLoop]{
		dtype.F32: q4_0F32AVX512, dtype.F16: q4_0F16AVX512, dtype.BF16: q4_0BF16AVX512,
	}
	r.q4_1 = byType[blocksLoop]{
		dtype.F32: q4_1F32AVX512, dtype.F16: q4_1F16AVX512, dtype.BF16: q4_1BF16AVX512,
	}
	r.q5_0 = byType[blocksLoop]{
		dtype.F32: q5_0F32AVX512, dtype.F16: q5_0F16AVX512, dtype.BF16: q5_0BF16AVX512,
	}
	r.q5_1 = byType[blocksLoop]{
		dtype.F32: q5_1F32AVX512, dtype.F16: q5_1F16AVX512, dtype.BF16: q5_1BF16AVX512,
	}
	return r
}()

func (r *routines) kernels() kernels {
	return kernels{
		name:  r.name,
		lanes: true,
		cast: func(dst, src []byte, to, from dtype.Type) {
			in, out := from.Size(), to.Size()
			n := len(src) / in / tile * tile
			loop := r.cast[from][to]
			if loop == nil || n == 0 {
				castPortable(dst, src, to, from)
				return
			}
			loop(&dst[:n*out][0], &src[0], n)
			castPortable(dst[n*out:], src[n*in:], to, from)
		},
		q8: func(dst, src []byte, from dtype.Type) {
			n := min(len(src)/(q8Block*from.Size()), len(dst)/q8Bytes)
			loop := r.q8[from]
			if loop == nil || n == 0 {
				q8Portable(dst, src, from)
				return
			}
			loop(&dst[0], &src[0], n)
		},
		absmax: func(src []byte, from dtype.Type) uint32 {
			n := len(src) / absmaxStep * absmaxStep
			loop := r.absmax[from]
			if loop == nil || n == 0 {
				return absmaxPortable(src, from)
			}
			return max(magnitudeBits(loop(&src[0], n/from.Size()), from), absmaxPortable(src[n:], from))
		},
		int8: func(dst, src []byte, from dtype.Type, scale float32) {
			n := len(dst) / tile * tile
			loop := r.int8[from]
			if loop == nil || n == 0 {
				int8Portable(dst, src, from, scale)
				return
			}
			loop(&dst[0], &src[:n*from.Size()][0], n, scale)
			int8Portable(dst[n:], src[n*from.Size():], from, scale)
		},
		q4_0: inTiles(r.q4_0, q4_0Bytes, q4_0Portable),
		q4_1: inTiles(r.q4_1, q4_1Bytes, q4_1Portable),
		q5_0: inTiles(r.q5_0, q5_0Bytes, q5_0Portable),
		q5_1: inTiles(r.q5_1, q5_1Bytes, q5_1Portable),
	}
}

// inTiles encodes blocks of size bytes with the loop for their type, and with
// portable what that leaves.
func inTiles(loops byType[blocksLoop], size int, portable func(dst, src []byte, from dtype.Type)) func(dst, src []byte, from dtype.Type) {
	return func(dst, src []byte, from dtype.Type) {
		loop, in := loops[from], blockLen*from.Size()
		for n := min(len(dst)/size, len(src)/in); n > 0; {
			if loop != nil && n >= blocksTile {
				done := loop(&dst[0], &src[0], n)
				dst, src, n = dst[done*size:], src[done*in:], n-done
			}
			rest := min(n, blocksTile)
			if loop == nil {
				rest = n
			}
			portable(dst[:rest*size], src[:rest*in], from)
			dst, src, n = dst[rest*size:], src[rest*in:], n-rest
		}
	}
}

// magnitudeBits turns the bits of a magnitude of type from into F32's.
func magnitudeBits(b uint32, from dtype.Type) uint32 {
	switch from {
	case dtype.F16:
		return math.Float32bits(dtype.F16ToF32(uint16(b)))
	case dtype.BF16:
		return b << 16
	}
	return b
}
