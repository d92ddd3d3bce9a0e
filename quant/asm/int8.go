package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// absmaxKernel returns the bits of the largest magnitude of n elements, as the
// source type has them; n is a multiple of four vectors.
func absmaxKernel(v isa, from element) {
	TEXT("absmax"+from.name+v.name, NOSPLIT, "func(src *byte, n int) uint32")
	Pragma("noescape")
	Doc("absmax" + from.name + v.name + " returns the largest magnitude's bits, in the type's own width.")
	src := Load(Param("src"), GP64()).(reg.GPVirtual)
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	mask := v.all(magnitude(from))
	most := make([]reg.VecVirtual, 4)
	for i := range most {
		most[i] = v.vec()
		v.zero(most[i])
	}
	Label("loop")
	for i := range most {
		x := v.vec()
		v.and(Mem{Base: src, Disp: i * v.bytes}, mask, x)
		maxBits(from, x, most[i], most[i])
	}
	ADDQ(I32(4*v.bytes), src)
	SUBQ(I32(4*v.bytes/from.bytes), n)
	JNZ(LabelRef("loop"))
	maxBits(from, most[0], most[1], most[0])
	maxBits(from, most[2], most[3], most[2])
	maxBits(from, most[0], most[2], most[0])
	x := v.reduceMax(from, most[0])
	bits := GP32()
	VMOVD(x, bits)
	if from != f32 {
		MOVWLZX(bits.As16(), bits)
	}
	Store(bits, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// int8Kernel writes n quotients, rounded half to even (the rounding mode that
// Go runs with) and saturated; n is a multiple of 32.
func int8Kernel(v isa, from element) {
	TEXT("int8"+from.name+v.name, NOSPLIT, "func(dst, src *byte, n int, scale float32)")
	Pragma("noescape")
	Doc("int8" + from.name + v.name + " divides n finite " + from.name + " by scale into int8.")
	dst, src, n := arguments()
	scale, divisor := XMM(), v.vec()
	Load(Param("scale"), scale)
	VBROADCASTSS(scale, divisor)
	p := v.newPacker()
	Label("loop")
	x := v.loadBlock(from, Mem{Base: src})
	for i := range x {
		VDIVPS(divisor, x[i], x[i])
		VCVTPS2DQ(x[i], x[i])
	}
	p.pack(x, Mem{Base: dst})
	ADDQ(I32(q8Block*from.bytes), src)
	ADDQ(U8(q8Block), dst)
	SUBQ(U8(q8Block), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
