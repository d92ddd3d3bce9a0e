package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// castKernel converts n elements; n is a multiple of 32.
func castKernel(v isa, from, to element) {
	name := "cast" + from.name + "To" + to.name + v.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int)")
	Pragma("noescape")
	Doc(name + " converts n elements from " + from.name + " to " + to.name + ".")
	dst, src, n := arguments()
	var r rounder
	if to == bf16 {
		r = v.newRounder()
	}
	Label("loop")
	x := v.loadBlock(from, Mem{Base: src})
	for i := range x {
		at := Mem{Base: dst, Disp: i * v.lanes() * to.bytes}
		switch to {
		case f32:
			v.store(x[i], at)
		case f16:
			VCVTPS2PH(U8(0), x[i], at) // 0: to nearest, half to even
		case bf16:
			r.round(x[i])
		}
	}
	if to == bf16 {
		r.store(x, Mem{Base: dst})
	}
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(I32(blockSize*to.bytes), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// rounder turns F32 into BF16 by integer arithmetic: AVX512_BF16's own
// instruction flushes denormals.
type rounder struct {
	isa
	one, bias, quiet reg.VecVirtual
	low              reg.VecVirtual // AVX-512: where the low halves of two registers are
}

// newRounder loads what round needs before the loop.
func (v isa) newRounder() rounder {
	r := rounder{v, v.all(1), v.all(0x7fff), v.all(0x400000), v.vec()}
	if v == avx512 {
		halves := make([]uint32, 16)
		for i := range halves {
			halves[i] = uint32(4*i | (4*i+2)<<16) // 16-bit lanes, the second register's from 32 on
		}
		v.load(constants32("lowHalves", halves...), r.low)
	}
	return r
}

// round leaves the BF16 of x in the low half of each 32-bit lane, zeros above.
func (r rounder) round(x reg.VecVirtual) {
	up, quiet := r.vec(), r.vec()
	VPSRLD(U8(16), x, up)
	r.and(r.one, up, up)
	VPADDD(r.bias, up, up)
	VPADDD(x, up, up)
	if r.isa == avx512 {
		nan := K()
		VCMPPS(U8(unordered), x, x, nan)
		VPORD(r.quiet, x, nan, up)
		VPSRLD(U8(16), up, x)
		return
	}
	nan := r.vec()
	VCMPPS(U8(unordered), x, x, nan)
	VPOR(r.quiet, x, quiet)
	VPBLENDVB(nan, quiet, up, x)
	VPSRLD(U8(16), x, x)
}

// store writes the low halves of x's lanes.
func (r rounder) store(x []reg.VecVirtual, m Mem) {
	if r.isa == avx512 {
		// One store a cache line, which then need not be read before.
		VPERMT2W(x[1], r.low, x[0])
		r.isa.store(x[0], m)
		return
	}
	for i := 0; i < len(x); i += 2 {
		const evenThenOdd = 0xd8 // the pack works inside 128-bit halves
		VPACKUSDW(x[i+1], x[i], x[i])
		VPERMQ(U8(evenThenOdd), x[i], x[i])
		VMOVDQU(x[i], m.Offset(16*i))
	}
}
