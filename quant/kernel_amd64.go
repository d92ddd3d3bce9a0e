//go:build !purego

package quant

import (
	"math"
	"unsafe"

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

func (r *routines) kernels() kernels {
	return kernels{
		name:  r.name,
		lanes: true,
		cast: func(dst, src []byte, to, from dtype.Type) {
			in, out := from.Size(), to.Size()
			loop := r.cast[from][to]
			if stream := r.stream[from][to]; stream != nil && len(dst) >= streamBytes {
				if head := untilLine(dst); head%out == 0 {
					head /= out
					castPortable(dst[:head*out], src[:head*in], to, from)
					dst, src, loop = dst[head*out:], src[head*in:], stream
				}
			}
			n := len(src) / in / tile * tile
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
		nf4:  inCodes(r.nf4, nf4Portable),
		fp4:  inCodes(r.fp4, fp4Portable),
		q4_0: inTiles(r.q4_0, q4_0Bytes, q4_0Portable),
		q4_1: inTiles(r.q4_1, q4_1Bytes, q4_1Portable),
		q5_0: inTiles(r.q5_0, q5_0Bytes, q5_0Portable),
		q5_1: inTiles(r.q5_1, q5_1Bytes, q5_1Portable),
		fp8: func(dst, src []byte, to, from dtype.Type, scale float32) {
			n := len(dst) / tile * tile
			loop := r.fp8[to][from]
			if loop == nil || n == 0 {
				fp8Portable(dst, src, to, from, scale)
				return
			}
			loop(&dst[0], &src[:n*from.Size()][0], n, scale)
			fp8Portable(dst[n:], src[n*from.Size():], to, from, scale)
		},
		int4: func(dst, src []byte, from dtype.Type, scale, zero float32) {
			n := len(src) / (tile * from.Size()) * tile
			loop := r.int4[from]
			if loop == nil || n == 0 {
				int4Portable(dst, src, from, scale, zero)
				return
			}
			loop(&dst[:n/2][0], &src[0], n, scale, zero)
		},
		nbits: func(codes, scales, src []byte, bits int, from dtype.Type) {
			loop := r.nbits4[from]
			if bits == 8 {
				loop = r.nbits8[from]
			}
			size, in := nbitsBlock*bits/8, nbitsBlock*from.Size()
			eachTile(len(scales)/4, loop != nil,
				func(at, n int) int { return loop(&codes[at*size], &scales[4*at], &src[at*in], n) },
				func(at, n int) {
					nbitsPortable(codes[at*size:][:n*size], scales[4*at:][:4*n], src[at*in:][:n*in], bits, from)
				})
		},
	}
}

// inCodes writes the codes of whole tiles with the loop for their type, and
// those of other types with portable.
func inCodes(loops byType[divideLoop], portable func(dst, src []byte, from dtype.Type, factor float32)) func(dst, src []byte, from dtype.Type, factor float32) {
	return func(dst, src []byte, from dtype.Type, factor float32) {
		loop, n := loops[from], len(src)/from.Size()
		if loop == nil {
			portable(dst, src, from, factor)
			return
		}
		loop(&dst[:n/2][0], &src[0], n, factor)
	}
}

// inTiles encodes blocks of size bytes with the loop for their type, and with
// portable what that leaves.
func inTiles(loops byType[blocksLoop], size int, portable func(dst, src []byte, from dtype.Type)) func(dst, src []byte, from dtype.Type) {
	return func(dst, src []byte, from dtype.Type) {
		loop, in := loops[from], blockLen*from.Size()
		eachTile(min(len(dst)/size, len(src)/in), loop != nil,
			func(at, n int) int { return loop(&dst[at*size], &src[at*in], n) },
			func(at, n int) { portable(dst[at*size:][:n*size], src[at*in:][:n*in], from) })
	}
}

// eachTile has n blocks encoded: by loop, where there is one, which returns how
// many it did, and by rest a tile at a time where that stopped.
func eachTile(n int, has bool, loop func(at, n int) int, rest func(at, n int)) {
	for at := 0; at < n; {
		most := n - at
		if has && most >= blocksTile {
			at += loop(at, most)
			most = min(n-at, blocksTile)
		}
		if most > 0 {
			rest(at, most)
			at += most
		}
	}
}

// untilLine returns the bytes of b before the first cache line that begins in it.
func untilLine(b []byte) int {
	return int(-uintptr(unsafe.Pointer(&b[0])) % cacheLine)
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
