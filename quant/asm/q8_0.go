package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The constants of quant/q8_0.go.
const (
	q8Bytes   = 34
	q8MinBits = 0x02fe0004
	infBits   = 0x7f800000
	nan16     = 0x7e00
	halfDown  = 0x1.fffffep-2
)

// tileBlocks is the number of blocks whose scales are computed, eight at a time,
// before the first of them is encoded: enough to hide the latency of a
// maximum across lanes and two divisions, and little enough that the source
// is still in the first cache when it is read again.
const (
	groupBlocks = 8
	tileBlocks  = 32
)

// q8Kernel writes n blocks of q8_0, a tile at a time, and one at a time what
// is left and the tiles that hold a value that is not finite.
func q8Kernel(v isa, from element) {
	TEXT("q8"+from.name+v.name, NOSPLIT, "func(dst, src *byte, n int)")
	Pragma("noescape")
	Doc("q8" + from.name + v.name + " encodes n blocks of 32 " + from.name + ".")
	dst, src, n := arguments()
	tile := scales{AllocLocal(4 * tileBlocks), AllocLocal(2 * tileBlocks)}
	mask := avx2.all(magnitude(from))
	q := v.newQuantizer(from)
	left := GP64()

	Label("tile")
	CMPQ(n, U8(tileBlocks))
	JB(LabelRef("tail"))
	SUBQ(U8(tileBlocks), n)
	MOVQ(U32(tileBlocks), left)
	tile.compute(from, src, mask, "single")
	inverse, scale, d := GP64(), GP64(), GP32()
	LEAQ(tile.inverses, inverse)
	LEAQ(tile.halves, scale)
	Label("encode")
	MOVWLZX(Mem{Base: scale}, d)
	MOVW(d.As16(), Mem{Base: dst})
	fetch(Mem{Base: src}, blockSize*from.bytes)
	q.encode(Mem{Base: inverse}, Mem{Base: src}, Mem{Base: dst, Disp: 2})
	ADDQ(U8(4), inverse)
	ADDQ(U8(2), scale)
	ADDQ(U8(blockSize*from.bytes), src)
	ADDQ(U8(q8Bytes), dst)
	DECQ(left)
	JNZ(LabelRef("encode"))
	TESTQ(n, n)
	JNZ(LabelRef("tile"))
	JMP(LabelRef("done"))

	Label("tail")
	MOVQ(n, left)
	XORQ(n, n)
	Label("single")
	q.single(dst, src, tile.inverses, mask)
	ADDQ(U8(blockSize*from.bytes), src)
	ADDQ(U8(q8Bytes), dst)
	DECQ(left)
	JNZ(LabelRef("single"))
	TESTQ(n, n)
	JNZ(LabelRef("tile"))

	Label("done")
	VZEROUPPER()
	RET()
}

// scales are a tile's scales, in memory, from where they come back as scalars
// and broadcasts without a shuffle.
type scales struct {
	inverses Mem // F32, 1/d, or 0 where it would overflow
	halves   Mem // F16, d
}

// compute fills a tile's scales from the blocks at src, or goes to label
// where a value is not finite.
func (t scales) compute(e element, src reg.GPVirtual, mask reg.VecVirtual, label string) {
	all := func(bits uint32) reg.VecVirtual { return avx2.all(bits) }
	smallest, largest := all(q8MinBits-1), all(infBits-1)
	one, range127 := all(math.Float32bits(1)), all(math.Float32bits(127))
	bad := YMM()
	VPXOR(bad, bad, bad)
	for i := 0; i < tileBlocks; i += groupBlocks {
		absmax := groupMax(e, Mem{Base: src, Disp: i * blockSize * e.bytes}, mask)
		over, enough, d, inverse := YMM(), YMM(), YMM(), YMM()
		VPCMPGTD(largest, absmax, over)
		VPOR(over, bad, bad)
		VPCMPGTD(smallest, absmax, enough)
		VDIVPS(range127, absmax, d)
		VDIVPS(d, one, inverse)
		VANDPS(enough, inverse, inverse)
		VMOVUPS(inverse, t.inverses.Offset(4*i))
		VCVTPS2PH(U8(0), d, t.halves.Offset(2*i))
	}
	bits := GP32()
	VMOVMSKPS(bad, bits)
	TESTL(bits, bits)
	JNZ(LabelRef(label))
}

// quantizer turns blocks into q.
type quantizer struct {
	block
	sign, half reg.VecVirtual
}

func (v isa) newQuantizer(from element) quantizer {
	return quantizer{v.newBlock(from), v.all(0x80000000), v.all(math.Float32bits(halfDown))}
}

// encode writes the 32 q of the block at src, times the F32 at inverse.
func (q quantizer) encode(inverse, src, dst Mem) {
	factor := q.vec()
	VBROADCASTSS(inverse, factor)
	x := q.load(src)
	for i := range x {
		VMULPS(factor, x[i], x[i])
		q.roundAway(x[i])
	}
	VMOVDQU(q.pack(x), dst)
}

// roundAway turns F32 into int32, half away from zero, for |x| < 2^22: it adds
// the number before 0.5, with x's sign, and cuts off.
func (q quantizer) roundAway(x reg.VecVirtual) {
	t := q.vec()
	if q.isa == avx512 {
		const orOfAnd = 0xea // half | x & sign
		q.copy(x, t)
		VPTERNLOGD(U8(orOfAnd), q.half, q.sign, t)
	} else {
		VANDPS(q.sign, x, t)
		VORPS(q.half, t, t)
	}
	VADDPS(t, x, x)
	VCVTTPS2DQ(x, x)
}

// single writes one block, whatever its values.
func (q quantizer) single(dst, src reg.GPVirtual, inverse Mem, mask reg.VecVirtual) {
	absmax := reduceMax(q.from, blockMax(q.from, Mem{Base: src}, mask))
	switch q.from {
	case f16:
		VCVTPH2PS(absmax, absmax)
	case bf16:
		VPSLLD(U8(16), absmax, absmax)
	}
	bits, scale := GP32(), GP32()
	VMOVD(absmax, bits)
	LEAL(Mem{Base: bits, Disp: -q8MinBits}, scale)
	CMPL(scale, U32(infBits-q8MinBits))
	JAE(LabelRef("rare"))
	d, one := XMM(), XMM()
	VDIVSS(constant(math.Float32bits(127)), absmax, d)
	VMOVSS(constant(math.Float32bits(1)), one)
	VDIVSS(d, one, one)
	VMOVSS(one, inverse)
	VCVTPS2PH(U8(0), d, d)
	VPEXTRW(U8(0), d, Mem{Base: dst})
	q.encode(inverse, Mem{Base: src}, Mem{Base: dst, Disp: 2})
	JMP(LabelRef("next"))

	Label("rare")
	zero, nan := YMM(), GP32()
	VPXOR(zero, zero, zero)
	VMOVDQU(zero, Mem{Base: dst, Disp: 2})
	MOVL(U32(nan16), nan)
	XORL(scale, scale)
	CMPL(bits, U32(infBits))
	CMOVLCC(nan, scale)
	MOVW(scale.As16(), Mem{Base: dst})
	Label("next")
}
