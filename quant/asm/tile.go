package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tileGroups is the number of groups of 8 blocks that are scanned before the
// first of them is encoded: 4 KiB of F32, which is still in the first cache
// when it is read again.
const tileGroups = 4

// needs are what the 8 blocks of a group need to be encoded, in memory, from
// where it comes back as scalars and broadcasts without a shuffle.
type needs struct{ base reg.GPVirtual }

const needsBytes = 4 * 32

// newTile returns memory for groups needs, none of which lies across more
// cache lines than it must.
func newTile(groups int) reg.GPVirtual {
	const line = 64
	tile := GP64()
	LEAQ(AllocLocal(groups*needsBytes+line), tile)
	ADDQ(U8(line-1), tile)
	ANDQ(I8(-line), tile)
	return tile
}

func (n needs) at(row, i, size int) Mem { return Mem{Base: n.base, Disp: 32*row + size*i} }

// inverse is the F32 by which the values of block i are multiplied: 1/d, or 0
// for d = 0.
func (n needs) inverse(i int) Mem { return n.at(0, i, 4) }

// least is a ranged block's minimum, F32.
func (n needs) least(i int) Mem { return n.at(1, i, 4) }

// head is d as F16 and, above it, a ranged block's minimum.
func (n needs) head(f format, i int) Mem { return n.at(2, i, f.head()) }

// scan finds what the blocks of a group need.
type scan struct {
	format
	from element
	needs
	src reg.GPVirtual // the group's first block
}

// usual stores what the group needs, or goes to the label rare where that
// takes more than the two bounds, or care.
func (s scan) usual() {
	if s.ranged {
		s.usualRanged()
	} else {
		s.usualSigned()
	}
}

// rarely is usual for the groups that it gives up; it goes to the label
// portable where a block is for the portable kernel.
func (s scan) rarely() {
	if s.ranged {
		s.rareRanged()
	} else {
		s.rareSigned()
	}
}

// usualRanged takes blocks of finite values of both signs.
func (s scan) usualRanged() {
	least, most := s.bounds()
	sign, largest, over := avx2.all(1<<31), avx2.all(infBits-2), YMM()
	VPXOR(sign, least, over)
	VPADDD(avx2.all(0xffffffff), over, over) // above all numbers without a negative value but -0
	VPMAXUD(most, over, over)
	VPMAXUD(largest, over, over)
	VPCMPEQD(largest, over, over)
	jumpUnlessAll(over, "rare")
	s.storeRanged(least, most)
}

// rareRanged takes all blocks of finite values but those whose least value is
// -0: whether a 0 comes before it decides.
func (s scan) rareRanged() {
	least, most := s.bounds()
	same := folds{unsignedLeast(s.from)}.ofEight(s.from, s.src)[0]
	bad, low, high := YMM(), YMM(), YMM()
	VPCMPEQD(avx2.all(1<<31), least, bad)
	VBLENDVPS(most, same, most, most)
	VBLENDVPS(least, least, same, least)
	magnitude := avx2.all(1<<31 - 1)
	VPAND(magnitude, least, low)
	VPAND(magnitude, most, high)
	VPMAXUD(low, high, high)
	VPCMPGTD(avx2.all(infBits-1), high, high)
	VPOR(high, bad, bad)
	jumpIfAny(bad, "portable")
	s.storeRanged(least, most)
}

func (s scan) storeRanged(least, most reg.VecVirtual) {
	zero, d, x := YMM(), YMM(), XMM()
	VPXOR(zero, zero, zero)
	VMOVUPS(least, s.least(0))
	VSUBPS(least, most, d)
	VDIVPS(avx2.all(math.Float32bits(float32(s.steps))), d, d)
	VMOVUPS(invert(d, zero), s.inverse(0))
	VCVTPS2PH(U8(0), d, d.AsX())
	VCVTPS2PH(U8(0), least, least.AsX())
	VPUNPCKLWD(least.AsX(), d.AsX(), x)
	VMOVDQU(x, s.needs.head(s.format, 0))
	VPUNPCKHWD(least.AsX(), d.AsX(), x)
	VMOVDQU(x, s.needs.head(s.format, 4))
}

// tiny is far enough above the magnitudes whose inverse overflows.
const tiny = 0x1p-120

// magnitudes are the bits of the largest one of a block's positive and of its
// negative values, 0 where there is none, and the larger of both.
type magnitudes struct{ positive, negative, most reg.VecVirtual }

func (s scan) magnitudes() magnitudes {
	negative, positive := s.bounds()
	zero, most := YMM(), YMM()
	VPXOR(zero, zero, zero)
	VPXOR(avx2.all(1<<31), negative, negative)
	VPMAXSD(zero, negative, negative)
	VPMAXSD(zero, positive, positive)
	VPMAXSD(negative, positive, most)
	return magnitudes{positive, negative, most}
}

// usualSigned takes blocks of finite values whose largest magnitude has one
// sign and an inverse.
func (s scan) usualSigned() {
	m := s.magnitudes()
	span := uint32(infBits - 1 - math.Float32bits(tiny))
	over, tie, limit := YMM(), YMM(), avx2.all(span)
	VPADDD(avx2.all(-math.Float32bits(tiny)), m.most, over)
	VPMAXUD(limit, over, over)
	VPCMPEQD(limit, over, over)
	VPCMPEQD(m.positive, m.negative, tie)
	VPANDN(over, tie, over)
	jumpUnlessAll(over, "rare")
	VMOVUPS(s.storeSigned(m.most, m.signs()), s.inverse(0))
}

// signs returns the sign of d: that which the largest magnitude has not.
func (m magnitudes) signs() reg.VecVirtual {
	signs := YMM()
	VPCMPGTD(m.positive, m.negative, signs)
	VPANDN(avx2.all(1<<31), signs, signs)
	return signs
}

// storeSigned stores d and returns 1/d.
func (s scan) storeSigned(most, signs reg.VecVirtual) reg.VecVirtual {
	d, inverse := YMM(), avx2.all(math.Float32bits(1))
	VMULPS(avx2.all(math.Float32bits(2/float32(s.steps+1))), most, d) // a power of two: as exact as the quotient
	VPOR(signs, d, d)
	VDIVPS(d, inverse, inverse)
	VCVTPS2PH(U8(0), d, s.needs.head(s.format, 0))
	return inverse
}

// rareSigned takes all blocks of finite values but those of tiny ones.
func (s scan) rareSigned() {
	m := s.magnitudes()
	zero, none, bad, small := YMM(), YMM(), YMM(), YMM()
	VPXOR(zero, zero, zero)
	VPCMPEQD(zero, m.most, none)
	VPCMPGTD(avx2.all(infBits-1), m.most, bad)
	VPCMPGTD(m.most, avx2.all(math.Float32bits(tiny)), small)
	VPANDN(small, none, small)
	VPOR(small, bad, bad)
	jumpIfAny(bad, "portable")
	signs := m.signs()
	tie, ties := YMM(), GP32()
	VPCMPEQD(m.positive, m.negative, tie)
	VPANDN(tie, none, tie)
	VMOVMSKPS(tie, ties)
	s.firstSigns(ties, m.most, signs)
	inverse := s.storeSigned(m.most, signs)
	VPANDN(inverse, none, inverse)
	VMOVUPS(inverse, s.inverse(0))
}

// firstSigns sets the signs of d of the blocks in ties by the first value of
// the largest magnitude in each.
func (s scan) firstSigns(ties reg.GPVirtual, most, signs reg.VecVirtual) {
	want, found := s.at(0, 0, 4), s.at(3, 0, 4)
	own := YMM()
	switch s.from {
	case f32:
		VMOVDQA(most, own)
	case f16:
		VCVTPS2PH(U8(0), most, own.AsX())
		VPMOVZXWD(own.AsX(), own)
	case bf16:
		VPSRLD(U8(16), most, own)
	}
	VMOVDQU(own, want)
	VMOVDQU(signs, found)
	lane, value, magnitude, at, rest := GP64(), GP32(), GP32(), GP64(), GP32()
	Label("tie")
	TESTL(ties, ties)
	JZ(LabelRef("tied"))
	BSFL(ties, lane.As32())
	LEAL(Mem{Base: ties, Disp: -1}, rest)
	ANDL(rest, ties)
	IMUL3Q(I32(blockSize*s.from.bytes), lane, at)
	ADDQ(s.src, at)
	Label("search")
	if s.from == f32 {
		MOVL(Mem{Base: at}, value)
	} else {
		MOVWLZX(Mem{Base: at}, value)
	}
	ADDQ(U8(s.from.bytes), at)
	MOVL(value, magnitude)
	ANDL(U32(1<<(8*s.from.bytes-1)-1), magnitude)
	CMPL(magnitude, Mem{Base: want.Base, Disp: want.Disp, Index: lane, Scale: 4})
	JNE(LabelRef("search"))
	NOTL(value)
	if s.from != f32 {
		SHLL(U8(16), value)
	}
	ANDL(U32(1<<31), value)
	MOVL(value, Mem{Base: found.Base, Disp: found.Disp, Index: lane, Scale: 4})
	JMP(LabelRef("tie"))
	Label("tied")
	VMOVDQU(found, signs)
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

// jumpUnlessAll goes to label unless all lanes of mask are set.
func jumpUnlessAll(mask reg.VecVirtual, label string) {
	bits := GP32()
	VMOVMSKPS(mask, bits)
	CMPL(bits, U32(1<<groupBlocks-1))
	JNE(LabelRef(label))
}
