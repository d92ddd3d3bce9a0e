package quant

import "github.com/gantry-ml/gantry/dtype"

//go:generate go run -C asm . -pkg quant -out ../asm_amd64.s -stubs ../asm_amd64.go

// kernels are one implementation of the loops under the schemes. The twins of
// a machine give the same bytes for every input; portable is the oracle. from
// and to are float types (dtype.Type.Float), src may be unaligned, and dst and
// src hold the same number of elements. A kernel allocates nothing and touches
// no byte beyond the slices it is given.
type kernels struct {
	name string
	// cast converts elements; to differs from from and is not F64.
	cast func(dst, src []byte, to, from dtype.Type)
	// q8 encodes whole blocks of q8_0.
	q8 func(dst, src []byte, from dtype.Type)
	// q4_0 to q5_1 encode whole blocks of the types they are named for.
	q4_0, q4_1, q5_0, q5_1 func(dst, src []byte, from dtype.Type)
	// absmax returns the F32 bits of the largest magnitude: 0 for no element,
	// and where there is a NaN any bits above infBits.
	absmax func(src []byte, from dtype.Type) uint32
	// int8 writes clamp(roundHalfEven(x / scale)) of finite elements.
	int8 func(dst, src []byte, from dtype.Type, scale float32)
	// fp8 writes finite elements divided by scale, of the 8-bit float type to.
	fp8 func(dst, src []byte, to, from dtype.Type, scale float32)
	// nf4 writes the codes of nf4 for whole tiles, more than none, of finite
	// elements times factor, the first of two in the high bits.
	nf4 func(dst, src []byte, from dtype.Type, factor float32)
	// fp4 writes the FP4 of mxfp4 for whole tiles, more than none, of finite
	// elements, of which times factor is half steps.
	fp4 func(dst, src []byte, from dtype.Type, factor float32)
	// int4 writes the codes of whole tiles of finite elements as packed has
	// them, two in a byte.
	int4 func(dst, src []byte, from dtype.Type, scale, zero float32)
	// nbits encodes whole blocks of 32 for ort_nbits4 and ort_nbits8.
	nbits func(codes, scales, src []byte, bits int, from dtype.Type)
	// lanes says that fitRange, fitSigned and round, which are methods since
	// what is passed to a func value moves to the heap, have routines too.
	lanes bool
}

// kernel is the fastest twin of this machine, chosen once.
var kernel = twins()[len(twins())-1]

// Kernels names the kernels that quantize on this machine: "avx512", "avx2" or
// "portable".
func Kernels() string { return kernel.name }

var portable = kernels{
	name:   "portable",
	cast:   castPortable,
	q8:     q8Portable,
	q4_0:   q4_0Portable,
	q4_1:   q4_1Portable,
	q5_0:   q5_0Portable,
	q5_1:   q5_1Portable,
	absmax: absmaxPortable,
	int8:   int8Portable,
	fp8:    fp8Portable,
	nf4:    nf4Portable,
	fp4:    fp4Portable,
	int4:   int4Portable,
	nbits:  nbitsPortable,
}
