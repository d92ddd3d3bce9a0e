package main

import (
	"math"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// int8Kernel writes n quotients, rounded half to even (the rounding mode that
// Go runs with) and saturated; n is a multiple of 32.
func int8Kernel(v isa, from element) {
	TEXT("int8"+from.name+v.name, NOSPLIT, "func(dst, src *byte, n int, scale float32)")
	Pragma("noescape")
	Doc("int8" + from.name + v.name + " divides n finite " + from.name + " by scale into int8.")
	dst, src, n := arguments()
	scale := XMM()
	Load(Param("scale"), scale)
	d := v.newDivider(scale)
	b := v.newBlock(from)
	// absmax reads the next row as soon as this one is done: have it fetched
	// meanwhile. A prefetch beyond the last row cannot fault.
	row := GP64()
	MOVQ(n, row)
	SHLQ(U8(bits.TrailingZeros(uint(from.bytes))), row)
	Label("loop")
	for i := 0; i < blockSize*from.bytes; i += 64 {
		PREFETCHT0(Mem{Base: src, Disp: i, Index: row, Scale: 1})
	}
	x := b.load(Mem{Base: src})
	for i := range x {
		x[i] = d.divide(x[i])
		VCVTPS2DQ(x[i], x[i])
	}
	VMOVDQU(b.pack(x), Mem{Base: dst})
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(U8(blockSize), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// divider divides by one number, exactly as a division would, in half the
// time. From the rounded inverse r = 1/s it takes q = x·r, and mends it twice
// with what is left over: q += (x − q·s)·r. The first brings q within one unit
// in the last place, and the second then rounds it correctly (Markstein,
// "Computation of elementary functions on the IBM RISC System/6000 processor",
// 1990, theorem 8.1), since the fused difference is exact. That wants nothing
// to overflow or underflow: here |x/s| < 128 and s ≥ 2⁻²³, and a quotient so
// small that its remainder is denormal rounds to 0 anyway.
type divider struct {
	isa
	by, inverse reg.VecVirtual
}

func (v isa) newDivider(by reg.VecVirtual) divider {
	d := divider{v, v.vec(), v.vec()}
	VBROADCASTSS(by, d.by)
	one := v.all(math.Float32bits(1))
	VDIVPS(d.by, one, d.inverse)
	return d
}

func (d divider) divide(x reg.VecVirtual) reg.VecVirtual {
	q, rest := d.vec(), d.vec()
	VMULPS(d.inverse, x, q)
	d.copy(x, rest)
	VFNMADD231PS(d.by, q, rest)
	VFMADD231PS(d.inverse, rest, q)
	VFNMADD231PS(d.by, q, x)
	VFMADD231PS(d.inverse, x, q)
	return q
}
