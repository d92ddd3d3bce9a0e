// Command asm writes the amd64 kernels of package quant: the same loops for
// each element type, for AVX2 and, where it pays, AVX-512, and the searches of
// the K types. It is a module of its own, so that who uses the library does
// not download the generator. Run it with
//
//	go generate ./quant
//
// Every function takes explicit bounds and trusts them: a pointer to the
// first byte of dst and of src, which need no alignment, and a count of
// elements or blocks that its Go driver (kernel_amd64.go) has made a multiple
// of what one turn of the loop takes; a loop that returns a count does fewer
// where what comes next is rare, and portable Go does that. The results equal
// the portable kernels' bit for bit, so no product is fused into a sum.
package main

import (
	. "github.com/mmcloughlin/avo/build"
)

func main() {
	ConstraintExpr("!purego")
	for _, from := range types {
		q8Kernel(avx2, from)
		absmaxKernel(avx2, from)
		int8Kernel(avx2, from)
		nf4Kernel(from)
		fp4Kernel(from)
		for _, to := range types {
			if to != from {
				castKernel(avx2, from, to, false)
				castKernel(avx2, from, to, true)
			}
		}
		for _, f := range formats {
			blocksKernel(avx2, f, from)
			blocksKernel(avx512, f, from)
		}
		for _, v := range []isa{avx2, avx512} {
			int4Kernel(v, from)
			nbitsKernel(v, 4, from)
			nbitsKernel(v, 8, from)
			for _, to := range fp8es {
				fp8Kernel(v, to, from)
			}
		}
	}
	// Only where twice the width was seen to pay: absmax and the casts to F32
	// wait for memory, and F16 for the conversion from it.
	q8Kernel(avx512, f32)
	q8Kernel(avx512, bf16)
	int8Kernel(avx512, bf16)
	for _, stream := range []bool{false, true} {
		castKernel(avx512, f32, f16, stream)
		castKernel(avx512, f32, bf16, stream)
		castKernel(avx512, bf16, f16, stream)
	}
	rangeKernel("fitRangeAVX2", 32, false)
	rangeKernel("fitAbsoluteAVX2", 16, true)
	signedKernel()
	roundKernel()
	Generate()
}
