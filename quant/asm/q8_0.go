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

// q8Group is the number of blocks whose scales are computed together.
const q8Group = 8

// q8Kernel writes n blocks of q8_0, eight at a time, and one at a time what is
// left and the groups in which a block has no finite inverse scale, or is not
// finite itself. Such a block's q are zero, and its d is zero or NaN.
func q8Kernel(v isa, from element) {
	TEXT("q8"+from.name+v.name, NOSPLIT, "func(dst, src *byte, n int)")
	Pragma("noescape")
	Doc("q8" + from.name + v.name + " encodes n blocks of 32 " + from.name + ".")
	dst, src, n := arguments()
	inverses, scales := AllocLocal(4*q8Group), AllocLocal(2*q8Group)
	mask := avx2.all(magnitude(from))
	q := quantizer{v.newBlock(from), v.all(0x80000000), v.all(math.Float32bits(halfDown))}
	single := GP64()

	Label("group")
	CMPQ(n, U8(q8Group))
	JB(LabelRef("tail"))
	absmax := groupMax(from, Mem{Base: src}, mask)
	jumpIfRare(absmax, "slow")
	d, inverse, divisor := YMM(), YMM(), YMM()
	VBROADCASTSS(constant(math.Float32bits(127)), divisor)
	VDIVPS(divisor, absmax, d)
	VBROADCASTSS(constant(math.Float32bits(1)), inverse)
	VDIVPS(d, inverse, inverse)
	// Through memory they come back as scalars and broadcasts without a
	// shuffle, and those ports are what this loop waits for.
	VMOVUPS(inverse, inverses)
	VCVTPS2PH(U8(0), d, scales)
	for i := range q8Group {
		scale := GP32()
		MOVWLZX(scales.Offset(2*i), scale)
		MOVW(scale.As16(), Mem{Base: dst, Disp: i * q8Bytes})
		q.encode(inverses.Offset(4*i), Mem{Base: src, Disp: i * blockSize * from.bytes}, Mem{Base: dst, Disp: i*q8Bytes + 2})
	}
	ADDQ(I32(q8Group*blockSize*from.bytes), src)
	ADDQ(I32(q8Group*q8Bytes), dst)
	SUBQ(U8(q8Group), n)
	JNZ(LabelRef("group"))
	JMP(LabelRef("done"))

	Label("slow")
	MOVQ(U32(q8Group), single)
	SUBQ(U8(q8Group), n)
	JMP(LabelRef("single"))
	Label("tail")
	MOVQ(n, single)
	XORQ(n, n)
	Label("single")
	q.single(dst, src, inverses, mask)
	ADDQ(U8(blockSize*from.bytes), src)
	ADDQ(U8(q8Bytes), dst)
	DECQ(single)
	JNZ(LabelRef("single"))
	TESTQ(n, n)
	JNZ(LabelRef("group"))

	Label("done")
	VZEROUPPER()
	RET()
}

// jumpIfRare goes to label where a lane of absmax lies outside
// [q8MinBits, infBits). One unsigned comparison finds both ends.
func jumpIfRare(absmax reg.VecVirtual, label string) {
	over, limit, bits := YMM(), YMM(), GP32()
	VPBROADCASTD(constant(q8MinBits), over)
	VPSUBD(over, absmax, over)
	VPBROADCASTD(constant(infBits-q8MinBits), limit)
	VPMAXUD(over, limit, limit)
	VPCMPEQD(over, limit, limit)
	VMOVMSKPS(limit, bits)
	TESTL(bits, bits)
	JNZ(LabelRef(label))
}

// quantizer turns blocks into q.
type quantizer struct {
	block
	sign, half reg.VecVirtual
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
	q.pack(x, dst)
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
