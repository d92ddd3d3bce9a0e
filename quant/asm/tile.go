package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tile is what the blocks of a tile need, three arrays of 32 bits a block, from
// where they come back as scalars and broadcasts without a shuffle.
type tile struct{ base reg.GPVirtual }

// inverse is the F32 by which a value is multiplied: 1/d, or 0 for d = 0.
func (t tile) inverse() Mem { return Mem{Base: t.base} }

// other is a ranged block's minimum, F32. Of the other blocks it is the largest
// magnitude in the source's own bits, or all ones instead of 0.
func (t tile) other() Mem { return Mem{Base: t.base, Disp: 4 * tileBlocks} }

// head is d as F16 and, above it, the minimum.
func (t tile) head() Mem { return Mem{Base: t.base, Disp: 2 * 4 * tileBlocks} }

// computeSigned fills the tile for types whose d has the sign that the value
// of the largest magnitude has not; it is written as negative. It moves t and
// src along, and counts groups down.
func (t tile) computeSigned(f format, from element, src, groups reg.GPVirtual) {
	zero, bad := YMM(), YMM()
	mask, largest := avx2.all(magnitude(from)), avx2.all(infBits-1)
	step := avx2.all(math.Float32bits(2 / float32(f.steps+1)))
	sign := avx2.all(1 << 31)
	VPXOR(zero, zero, zero)
	VPXOR(bad, bad, bad)
	Label("group")
	absmax := groupMax(from, Mem{Base: src}, mask)
	over, none, d := YMM(), YMM(), YMM()
	VPCMPGTD(largest, absmax, over)
	VPOR(over, bad, bad)
	VPCMPEQD(zero, absmax, none)
	VMULPS(step, absmax, d) // a power of two: as exact as the quotient
	inverse := invert(d, zero)
	VORPS(sign, inverse, inverse)
	VMOVUPS(inverse, t.inverse())
	VORPS(sign, d, d)
	VCVTPS2PH(U8(0), d, d.AsX())
	VPMOVZXWD(d.AsX(), d)
	VMOVDQU(d, t.head())
	switch from {
	case f16:
		VCVTPS2PH(U8(0), absmax, absmax.AsX())
		VPMOVZXWD(absmax.AsX(), absmax)
	case bf16:
		VPSRLD(U8(16), absmax, absmax)
	}
	VPOR(none, absmax, absmax)
	VMOVDQU(absmax, t.other())
	t.nextGroup(from, src, groups)
	jumpIfAny(bad, "done")
}

// computeRanged is computeSigned for types that store the minimum.
func (t tile) computeRanged(f format, from element, src, groups reg.GPVirtual) {
	b := avx2.newBlock(from)
	zero, bad, flat := YMM(), YMM(), YMM()
	VPXOR(zero, zero, zero)
	VPXOR(bad, bad, bad)
	VPXOR(flat, flat, flat)
	Label("group")
	bounds := boundsOfEight(b, src, zero, bad)
	m, d, none := bounds[0], bounds[1], YMM()
	VMOVUPS(m, t.other())
	VCMPPS(U8(equal), zero, m, none)
	VPOR(none, flat, flat)
	VSUBPS(m, d, d)
	VDIVPS(avx2.all(math.Float32bits(float32(f.steps))), d, d)
	VMOVUPS(invert(d, zero), t.inverse())
	x, y := XMM(), XMM()
	VCVTPS2PH(U8(0), d, d.AsX())
	VCVTPS2PH(U8(0), m, m.AsX())
	VPUNPCKLWD(m.AsX(), d.AsX(), x)
	VPUNPCKHWD(m.AsX(), d.AsX(), y)
	VMOVDQU(x, t.head())
	VMOVDQU(y, t.head().Offset(16))
	t.nextGroup(from, src, groups)
	VCMPPS(U8(unordered), bad, bad, bad)
	jumpIfAny(bad, "done")
	jumpIfAny(flat, "zeros")
	Label("sound")
}

// boundsOfEight returns the least and the largest values of the 8 blocks at
// src, one to a lane, and makes a lane of bad NaN if a value is not finite.
func boundsOfEight(b block, src reg.GPVirtual, zero, bad reg.VecVirtual) []reg.VecVirtual {
	least := func(a, b, dst Op) { VMINPS(a, b, dst) }
	most := func(a, b, dst Op) { VMAXPS(a, b, dst) }
	return folds{least, most}.eight(func(i int) []reg.VecVirtual {
		x := b.load(Mem{Base: src, Disp: i * blockSize * b.from.bytes})
		low, high, none := YMM(), YMM(), YMM()
		VMINPS(x[0], x[1], low)
		VMAXPS(x[0], x[1], high)
		VMULPS(x[0], zero, none)
		VFMADD231PS(x[1], zero, none)
		for _, x := range x[2:] {
			VMINPS(x, low, low)
			VMAXPS(x, high, high)
			VFMADD231PS(x, zero, none)
		}
		VORPS(none, bad, bad) // NaN if a value was not finite
		return []reg.VecVirtual{low, high}
	})
}

// nextGroup goes to the label group until groups is 0.
func (t tile) nextGroup(from element, src, groups reg.GPVirtual) {
	ADDQ(U8(4*groupBlocks), t.base)
	ADDQ(I32(groupBlocks*blockSize*from.bytes), src)
	DECQ(groups)
	JNZ(LabelRef("group"))
}

// The predicates of VCMPPS.
const (
	equal     = 0
	unordered = 3
	notEqual  = 4
)

// invert returns 1/d, or 0 where d is 0.
func invert(d, zero reg.VecVirtual) reg.VecVirtual {
	some, inverse := YMM(), avx2.all(math.Float32bits(1))
	VCMPPS(U8(notEqual), zero, d, some)
	VDIVPS(d, inverse, inverse)
	VANDPS(some, inverse, inverse)
	return inverse
}

// jumpIfAny goes to label if any lane of mask is set.
func jumpIfAny(mask reg.VecVirtual, label string) {
	bits := GP32()
	VMOVMSKPS(mask, bits)
	TESTL(bits, bits)
	JNZ(LabelRef(label))
}

// jumpIfNegative goes to label if any sign is set in the tile that ends at end.
func jumpIfNegative(from element, end reg.GPVirtual, label string) {
	all, bits, left := YMM(), GP32(), GP64()
	VPXOR(all, all, all)
	MOVQ(I32(-tileBlocks*blockSize*from.bytes), left)
	Label("signs")
	VPOR(Mem{Base: end, Index: left, Scale: 1}, all, all)
	ADDQ(U8(32), left)
	JNZ(LabelRef("signs"))
	signs := uint32(0x88888888) // of the bytes of F32
	if from != f32 {
		signs = 0xaaaaaaaa
	}
	VPMOVMSKB(all, bits)
	TESTL(U32(signs), bits)
	JNZ(LabelRef(label))
}
