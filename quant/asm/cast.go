package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// castKernel converts n elements; n is a multiple of 32. With stream it writes
// past the caches, a destination that begins with a cache line.
func castKernel(v isa, from, to element, stream bool) {
	name := "cast" + from.name + "To" + to.name + v.name
	doc := " converts n elements from " + from.name + " to " + to.name + "."
	if stream {
		name = "stream" + from.name + "To" + to.name + v.name
		doc = " converts n elements from " + from.name + " to " + to.name + " past the caches."
	}
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int)")
	Pragma("noescape")
	Doc(name + doc)
	dst, src, n := arguments()
	var r rounder
	if to == bf16 {
		r = v.newRounder()
	}
	Label("loop")
	fetch(Mem{Base: src}, blockSize*from.bytes)
	x := v.loadBlock(from, Mem{Base: src})
	switch to {
	case f16:
		x = v.halves(x)
	case bf16:
		x = r.rounded(x)
	}
	for i := range x {
		at := Mem{Base: dst, Disp: i * v.bytes}
		if stream {
			VMOVNTDQ(x[i], at)
		} else {
			v.store(x[i], at)
		}
	}
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(I32(blockSize*to.bytes), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	if stream {
		SFENCE()
	}
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

// rounded returns the BF16 of x: whole vectors, since a store of a whole cache
// line spares reading it before.
func (r rounder) rounded(x []reg.VecVirtual) (packed []reg.VecVirtual) {
	for _, x := range x {
		r.round(x)
	}
	for i := 0; i < len(x); i += 2 {
		if r.isa == avx512 {
			VPERMT2W(x[i+1], r.low, x[i])
		} else {
			const evenThenOdd = 0xd8 // the pack works inside 128-bit halves
			VPACKUSDW(x[i+1], x[i], x[i])
			VPERMQ(U8(evenThenOdd), x[i], x[i])
		}
		packed = append(packed, x[i])
	}
	return packed
}

// halves returns the F16 of x, in whole vectors too.
func (v isa) halves(x []reg.VecVirtual) (packed []reg.VecVirtual) {
	const nearest = 0 // half to even
	for i := 0; i < len(x); i += 2 {
		low, high := x[i].AsX(), x[i+1].AsX()
		if v == avx512 {
			low, high = x[i].AsY(), x[i+1].AsY()
		}
		VCVTPS2PH(U8(nearest), x[i], low)
		VCVTPS2PH(U8(nearest), x[i+1], high)
		if v == avx512 {
			VINSERTI64X4(U8(1), high, x[i], x[i])
		} else {
			VINSERTI128(U8(1), high, x[i], x[i])
		}
		packed = append(packed, x[i])
	}
	return packed
}
