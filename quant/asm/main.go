// Command asm writes the amd64 kernels of package quant: the same loops for
// AVX2 and AVX-512, for each element type. It is a module of its own, so that
// who uses the library does not download the generator. Run it with
//
//	go generate ./quant
//
// Every function takes explicit bounds and trusts them: a pointer to the
// first byte of dst and of src, which need no alignment, and a count of
// elements or blocks that its Go driver (kernel_amd64.go) has made a multiple
// of what one turn of the loop takes. The results equal the portable kernels'
// bit for bit, so no product is fused into a sum.
package main

import (
	. "github.com/mmcloughlin/avo/build"
)

func main() {
	ConstraintExpr("!purego")
	for _, v := range []isa{avx2, avx512} {
		for _, from := range types {
			q8Kernel(v, from)
			absmaxKernel(v, from)
			int8Kernel(v, from)
			for _, to := range types {
				if to != from {
					castKernel(v, from, to)
				}
			}
		}
	}
	Generate()
}
