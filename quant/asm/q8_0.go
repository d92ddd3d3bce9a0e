package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The constants of quant/q8_0.go.
const (
	q8Block   = 32
	q8Bytes   = 34
	q8MinBits = 0x02fe0004
	infBits   = 0x7f800000
	nan16     = 0x7e00
	halfDown  = 0x1.fffffep-2
)

// q8Kernel writes n blocks of q8_0. A block whose largest magnitude has no
// finite inverse scale, or is not finite itself, leaves the fast path: all its
// q are zero, and d is zero or NaN.
func q8Kernel(v isa, from element) {
	TEXT("q8"+from.name+v.name, NOSPLIT, "func(dst, src *byte, n int)")
	Pragma("noescape")
	Doc("q8" + from.name + v.name + " encodes n blocks of 32 " + from.name + ".")
	dst, src, n := arguments()
	mask := v.all(magnitude(from))
	sign := v.all(0x80000000)
	half := v.all(math.Float32bits(halfDown))
	p := v.newPacker()
	one, range127 := XMM(), XMM()
	VMOVSS(constant(math.Float32bits(1)), one)
	VMOVSS(constant(math.Float32bits(127)), range127)

	name := "loop"
	Label(name)
	at := Mem{Base: src}
	var x []reg.VecVirtual
	if from == f32 {
		x = v.loadBlock(from, at)
	}
	absmax := toF32(from, v.reduceMax(from, v.blockMax(from, at, x, mask)))

	// One unsigned comparison finds both ends of the range.
	bits, over := GP32(), GP32()
	VMOVD(absmax, bits)
	LEAL(Mem{Base: bits, Disp: -q8MinBits}, over)
	CMPL(over, U32(infBits-q8MinBits))
	JAE(LabelRef("rare"))

	d, inverse := XMM(), XMM()
	VDIVSS(range127, absmax, d)
	VDIVSS(d, one, inverse)
	VCVTPS2PH(U8(0), d, d)
	VPEXTRW(U8(0), d, Mem{Base: dst})
	factor := v.vec()
	VBROADCASTSS(inverse, factor)
	if x == nil {
		x = v.loadBlock(from, at)
	}
	for i := range x {
		VMULPS(factor, x[i], x[i])
		v.roundAway(x[i], sign, half)
	}
	p.pack(x, Mem{Base: dst, Disp: 2})

	Label("next")
	ADDQ(U8(q8Block*from.bytes), src)
	ADDQ(U8(q8Bytes), dst)
	DECQ(n)
	JNZ(LabelRef(name))
	VZEROUPPER()
	RET()

	Label("rare")
	zero := YMM()
	VPXOR(zero, zero, zero)
	VMOVDQU(zero, Mem{Base: dst, Disp: 2})
	nan := GP32()
	MOVL(U32(nan16), nan)
	XORL(over, over)
	CMPL(bits, U32(infBits))
	CMOVLCC(nan, over)
	MOVW(over.As16(), Mem{Base: dst})
	JMP(LabelRef("next"))
}

// loadBlock reads 32 elements as F32.
func (v isa) loadBlock(e element, at Mem) []reg.VecVirtual {
	x := make([]reg.VecVirtual, q8Block/v.lanes())
	for i := range x {
		x[i] = v.loadF32(e, at.Offset(i*v.lanes()*e.bytes))
	}
	return x
}

// blockMax returns a vector whose largest lane is the largest magnitude of 32
// elements: of x where they are F32, of the stored halves at `at` otherwise,
// which takes half the vectors.
func (v isa) blockMax(e element, at Mem, x []reg.VecVirtual, mask reg.VecVirtual) reg.VecVirtual {
	if e != f32 {
		x = make([]reg.VecVirtual, q8Block*e.bytes/v.bytes)
	}
	m := make([]reg.VecVirtual, len(x))
	for i := range m {
		m[i] = v.vec()
		if e == f32 {
			v.and(mask, x[i], m[i])
		} else {
			v.and(at.Offset(i*v.bytes), mask, m[i])
		}
	}
	for ; len(m) > 1; m = m[:len(m)/2] {
		for i := range m[:len(m)/2] {
			maxBits(e, m[i], m[i+len(m)/2], m[i])
		}
	}
	return m[0]
}

// toF32 turns the first element of x, of type e, into the first F32.
func toF32(e element, x reg.VecVirtual) reg.VecVirtual {
	switch e {
	case f16:
		VCVTPH2PS(x, x)
	case bf16:
		VPSLLD(U8(16), x, x)
	}
	return x
}

// roundAway turns F32 into int32, half away from zero, for |x| < 2^22: it adds
// the number before 0.5, with x's sign, and cuts off.
func (v isa) roundAway(x, sign, half reg.VecVirtual) {
	t := v.vec()
	if v == avx512 {
		const orOfAnd = 0xea // half | x & sign
		VMOVDQA32(x, t)
		VPTERNLOGD(U8(orOfAnd), half, sign, t)
	} else {
		VANDPS(sign, x, t)
		VORPS(half, t, t)
	}
	VADDPS(t, x, x)
	VCVTTPS2DQ(x, x)
}
