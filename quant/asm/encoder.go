package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// encoder turns blocks into d, minimum and q.
type encoder struct {
	block
	format    format
	one       reg.VecVirtual // of a ranged format
	middle    reg.VecVirtual // what is added before q is cut off
	magnitude reg.VecVirtual // of a signed format: clears the source's signs
	low       reg.VecVirtual // 15 in each lane, which is a byte unless q is joined wide
	steps     reg.VecVirtual // the largest q, in each byte
}

func newEncoder(v isa, f format, from element) encoder {
	e := encoder{block: v.newBlock(from), format: f, low: YMM(), steps: YMM()}
	if f.ranged {
		e.middle, e.one = v.all(math.Float32bits(0.5)), v.all(math.Float32bits(1))
	} else {
		e.middle, e.magnitude = v.all(math.Float32bits(float32(f.steps+1)/2+0.5)), v.all(magnitude(from))
		VPBROADCASTB(constant(f.steps), e.steps)
	}
	if e.wide() {
		e.low = v.all(15)
	} else {
		VPBROADCASTB(constant(15), e.low)
	}
	return e
}

// wide reports whether q is joined while it is 32 bits wide, which is faster
// where the two halves of a block have a register each and q needs no clamp.
func (e encoder) wide() bool { return e.isa == avx512 && e.from != bf16 && e.format.ranged }

// encode writes the block at src.
func (e encoder) encode(t tile, src, dst reg.GPVirtual) {
	at, out := Mem{Base: src}, Mem{Base: dst}
	var factor, least reg.VecVirtual
	if e.format.ranged {
		head := GP32()
		MOVL(t.head(), head)
		MOVL(head, out)
		factor, least = e.vec(), e.vec()
		VBROADCASTSS(t.inverse(), factor)
		VBROADCASTSS(t.other(), least)
	} else {
		factor = e.signedFactor(t, at, out)
	}
	x := e.load(at)
	for _, x := range x {
		if e.format.ranged {
			VFNMADD231PS(e.one, least, x) // x - least, in the units that multiply
		}
		VMULPS(factor, x, x)
		VADDPS(e.middle, x, x)
		VCVTTPS2DQ(x, x)
	}
	if e.wide() {
		e.joinWide(x, out)
	} else {
		e.join(x, out)
	}
}

// signedFactor writes d, and returns 1/d in each lane: the tile's, which are
// negative, unless the first value of the largest magnitude is.
func (e encoder) signedFactor(t tile, at, out Mem) reg.VecVirtual {
	negative, inverse, head, factor := e.firstIsNegative(at, t.other()), GP32(), GP32(), e.vec()
	MOVL(negative, inverse)
	SHLL(U8(31), inverse)
	XORL(t.inverse(), inverse)
	SHLL(U8(15), negative)
	MOVL(t.head(), head)
	XORL(negative, head)
	MOVW(head.As16(), out)
	if e.isa == avx512 {
		VPBROADCASTD(inverse, factor)
	} else {
		VMOVD(inverse, factor.AsX())
		VPBROADCASTD(factor.AsX(), factor)
	}
	return factor
}

// join writes the bits of 32 q, after packing them into bytes.
func (e encoder) join(x []reg.VecVirtual, out Mem) {
	q, upper := e.pack(x), XMM()
	if !e.format.ranged {
		VPMINSB(e.steps, q, q)
	}
	if e.format.fifth() {
		fifth, bits := YMM(), GP32()
		VPSLLW(U8(3), q, fifth)
		VPMOVMSKB(fifth, bits)
		MOVL(bits, out.Offset(e.format.head()))
	}
	VPAND(e.low, q, q)
	VEXTRACTI128(U8(1), q, upper)
	VPSLLW(U8(4), upper, upper)
	VPOR(upper, q.AsX(), upper)
	VMOVDQU(upper, out.Offset(e.format.low()))
}

// joinWide is join before packing.
func (e encoder) joinWide(x []reg.VecVirtual, out Mem) {
	if e.format.fifth() {
		bit, lower, upper, bits := e.all(16), K(), K(), GP32()
		VPTESTMD(bit, x[0], lower)
		VPTESTMD(bit, x[1], upper)
		KUNPCKWD(lower, upper, lower)
		KMOVD(lower, bits)
		MOVL(bits, out.Offset(e.format.head()))
		VPANDD(e.low, x[0], x[0])
	}
	q := XMM()
	VPSLLD(U8(4), x[1], x[1])
	VPORD(x[1], x[0], x[0])
	VPMOVDB(x[0], q)
	VMOVDQU(q, out.Offset(e.format.low()))
}
