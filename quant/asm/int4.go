package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// int4Kernel writes n codes of 4 bits, two in a byte, the first one low: 8 +
// the integer nearest to x / scale + zero, held in [-8, 7]. n is a multiple of
// 32.
func int4Kernel(v isa, from element) {
	name := "int4" + from.name + v.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int, scale, zero float32)")
	Pragma("noescape")
	Doc(name + " divides n finite " + from.name + " by scale into codes of 4 bits around zero.")
	dst, src, n := arguments()
	scale, zero, add := XMM(), XMM(), v.vec()
	Load(Param("scale"), scale)
	Load(Param("zero"), zero)
	VBROADCASTSS(zero, add)
	d := v.newDivider(scale)
	b := v.newBlock(from)
	least, most := v.all(math.Float32bits(-8)), v.all(math.Float32bits(7))
	half, pairs := YMM(), newPairs()
	VPBROADCASTB(constant(8), half)
	Label("loop")
	fetch(Mem{Base: src}, blockSize*from.bytes)
	x := b.load(Mem{Base: src})
	for i := range x {
		x[i] = d.divide(x[i])
		VADDPS(add, x[i], x[i])
		VMAXPS(least, x[i], x[i])
		VMINPS(most, x[i], x[i])
		VCVTPS2DQ(x[i], x[i])
	}
	q := b.pack(x)
	VPADDB(half, q, q)
	VMOVDQU(pairs.join(q), Mem{Base: dst})
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(U8(blockSize/2), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// pairs joins codes of 4 bits that follow each other.
type pairs struct{ factors reg.VecVirtual }

func newPairs() pairs {
	p := pairs{YMM()}
	VPBROADCASTW(constant(0x1001), p.factors) // times 1 and times 16
	return p
}

// join returns 32 codes, a byte each, as 16 bytes.
func (p pairs) join(q reg.VecVirtual) reg.Register {
	const evenQuads = 0x08
	VPMADDUBSW(p.factors, q, q)
	VPACKUSWB(q, q, q)
	VPERMQ(U8(evenQuads), q, q)
	return q.AsX()
}
