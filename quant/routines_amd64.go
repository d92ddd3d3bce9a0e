//go:build !purego

package quant

import "github.com/gantry-ml/gantry/dtype"

// routines are the assembly loops of one instruction set. They take whole
// turns only; the drivers here give them those and finish in portable Go,
// which does the types (F64) and the small inputs that have no routine too.
type routines struct {
	name   string
	cast   byType[byType[loop]] // by from, then to
	stream byType[byType[loop]] // cast, past the caches, to a dst that begins with a cache line
	q8     byType[loop]
	absmax byType[absmaxLoop]
	int8   byType[divideLoop]
	nf4    byType[divideLoop] // times a factor, as fp4
	fp4    byType[divideLoop]

	q4_0, q4_1, q5_0, q5_1 byType[blocksLoop]

	fp8            byType[byType[divideLoop]] // by to, then from
	int4           byType[codesLoop]
	nbits4, nbits8 byType[scaledLoop]
}

// blocksTile is the number of blocks that one turn of a blocksLoop or a
// scaledLoop takes.
const blocksTile = 8

// streamBytes is the size from which a destination is written past the caches:
// the rest of a load would not find it there, and it would have to be read
// before it is written.
const streamBytes = 256 << 10

const cacheLine = 64

// absmaxStep is the bytes of src that one turn of absmax takes.
const absmaxStep = 4 * 32

type (
	loop       = func(dst, src *byte, n int)
	absmaxLoop = func(src *byte, n int) uint32
	divideLoop = func(dst, src *byte, n int, scale float32)
	// blocksLoop encodes up to n blocks and returns how many: less than a tile
	// is left, or the next tile holds what only the portable kernel does.
	blocksLoop = func(dst, src *byte, n int) int
	codesLoop  = func(dst, src *byte, n int, scale, zero float32)
	// scaledLoop is a blocksLoop that writes scales apart.
	scaledLoop = func(codes, scales, src *byte, n int) int
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
	stream: byType[byType[loop]]{
		dtype.F32:  {dtype.F16: streamF32ToF16AVX2, dtype.BF16: streamF32ToBF16AVX2},
		dtype.F16:  {dtype.F32: streamF16ToF32AVX2, dtype.BF16: streamF16ToBF16AVX2},
		dtype.BF16: {dtype.F32: streamBF16ToF32AVX2, dtype.F16: streamBF16ToF16AVX2},
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
	nf4: byType[divideLoop]{
		dtype.F32: nf4F32AVX2, dtype.F16: nf4F16AVX2, dtype.BF16: nf4BF16AVX2,
	},
	fp4: byType[divideLoop]{
		dtype.F32: fp4F32AVX2, dtype.F16: fp4F16AVX2, dtype.BF16: fp4BF16AVX2,
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
	int4: byType[codesLoop]{
		dtype.F32: int4F32AVX2, dtype.F16: int4F16AVX2, dtype.BF16: int4BF16AVX2,
	},
	nbits4: byType[scaledLoop]{
		dtype.F32: nbits4F32AVX2, dtype.F16: nbits4F16AVX2, dtype.BF16: nbits4BF16AVX2,
	},
	nbits8: byType[scaledLoop]{
		dtype.F32: nbits8F32AVX2, dtype.F16: nbits8F16AVX2, dtype.BF16: nbits8BF16AVX2,
	},
	fp8: byType[byType[divideLoop]]{
		dtype.F8E4M3: {dtype.F32: fp8E4M3F32AVX2, dtype.F16: fp8E4M3F16AVX2, dtype.BF16: fp8E4M3BF16AVX2},
		dtype.F8E5M2: {dtype.F32: fp8E5M2F32AVX2, dtype.F16: fp8E5M2F16AVX2, dtype.BF16: fp8E5M2BF16AVX2},
	},
}

// avx512 is avx2 but for the loops that twice the width makes faster.
var avx512 = func() routines {
	r := avx2
	r.name = "avx512"
	r.cast[dtype.F32][dtype.F16] = castF32ToF16AVX512
	r.cast[dtype.F32][dtype.BF16] = castF32ToBF16AVX512
	r.cast[dtype.BF16][dtype.F16] = castBF16ToF16AVX512
	r.stream[dtype.F32][dtype.F16] = streamF32ToF16AVX512
	r.stream[dtype.F32][dtype.BF16] = streamF32ToBF16AVX512
	r.stream[dtype.BF16][dtype.F16] = streamBF16ToF16AVX512
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
	r.int4 = byType[codesLoop]{
		dtype.F32: int4F32AVX512, dtype.F16: int4F16AVX512, dtype.BF16: int4BF16AVX512,
	}
	r.nbits4 = byType[scaledLoop]{
		dtype.F32: nbits4F32AVX512, dtype.F16: nbits4F16AVX512, dtype.BF16: nbits4BF16AVX512,
	}
	r.nbits8 = byType[scaledLoop]{
		dtype.F32: nbits8F32AVX512, dtype.F16: nbits8F16AVX512, dtype.BF16: nbits8BF16AVX512,
	}
	r.fp8 = byType[byType[divideLoop]]{
		dtype.F8E4M3: {dtype.F32: fp8E4M3F32AVX512, dtype.F16: fp8E4M3F16AVX512, dtype.BF16: fp8E4M3BF16AVX512},
		dtype.F8E5M2: {dtype.F32: fp8E5M2F32AVX512, dtype.F16: fp8E5M2F16AVX512, dtype.BF16: fp8E5M2BF16AVX512},
	}
	return r
}()
