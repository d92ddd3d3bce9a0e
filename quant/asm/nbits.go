package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// nbitsKernel encodes symmetric blocks of 32 for MatMulNBits, a tile
// (tileBlocks) at a time, and stops where blocksKernel would.
func nbitsKernel(v isa, bits int, from element) {
	name := fmt.Sprintf("nbits%d%s%s", bits, from.name, v.name)
	TEXT(name, NOSPLIT, "func(codes, scales, src *byte, n int) int")
	Pragma("noescape")
	Doc(name + " encodes up to n blocks of 32 " + from.name + " and returns how many.")
	param := func(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }
	codes, scales, src, n := param("codes"), param("scales"), param("src"), param("n")
	inverses, at, group, left := GP64(), GP64(), GP64(), GP64()
	LEAQ(AllocLocal(4*tileBlocks), inverses)
	half := float32(int(1) << (bits - 1))

	Label("tile")
	CMPQ(n, U8(tileBlocks))
	JB(LabelRef("done"))
	MOVQ(inverses, at)
	MOVQ(src, group)
	MOVQ(U32(tileBlocks/groupBlocks), left)
	computeNbits(from, -1/half, group, scales, at, left)
	SUBQ(U8(tileBlocks), n)
	MOVQ(U32(tileBlocks), left)
	MOVQ(inverses, at)
	e := newNbitsEncoder(v, bits, from)
	Label("encode")
	fetch(Mem{Base: src}, blockSize*from.bytes)
	e.encode(Mem{Base: at}, Mem{Base: src}, Mem{Base: codes})
	ADDQ(U8(4), at)
	ADDQ(U8(blockSize*from.bytes), src)
	ADDQ(U8(blockSize*bits/8), codes)
	DECQ(left)
	JNZ(LabelRef("encode"))
	JMP(LabelRef("tile"))

	Label("done")
	all := Load(Param("n"), GP64())
	SUBQ(n, all)
	Store(all, ReturnIndex(0))
	VZEROUPPER()
	RET()
	Label("zeros")
	jumpIfNegative(from, group, "done")
	JMP(LabelRef("sound"))
}

// computeNbits writes a tile's scales, m times step, where m is the bound of
// the larger magnitude, the lower one if they are equal, and their inverses,
// or 0 where there is none. Scales and inverses move along; a tile that is
// given up moves scales too, but nothing follows.
func computeNbits(from element, step float32, src, scales, inverses, groups reg.GPVirtual) {
	zero, bad, flat := YMM(), YMM(), YMM()
	for _, r := range []reg.VecVirtual{zero, bad, flat} {
		VPXOR(r, r, r)
	}
	b := avx2.newBlock(from)
	Label("group")
	bounds := boundsOfEight(b, src, zero, bad)
	least, most := bounds[0], bounds[1]
	low, high, empty, lower := YMM(), YMM(), YMM(), YMM()
	magnitude := avx2.all(0x7fffffff)
	VANDPS(magnitude, least, low)
	VANDPS(magnitude, most, high)
	VCMPPS(U8(lessOrEqual), low, high, lower)
	VBLENDVPS(lower, least, most, most)
	VCMPPS(U8(equal), zero, most, empty)
	VPOR(empty, flat, flat)
	VMULPS(avx2.all(math.Float32bits(step)), most, most) // a power of two: as exact as the quotient
	VMOVUPS(most, Mem{Base: scales})
	inverse, finite := invert(most, zero), YMM()
	VANDPS(magnitude, inverse, finite)
	VCMPPS(U8(less), avx2.all(infBits), finite, finite)
	VANDPS(finite, inverse, inverse)
	VMOVUPS(inverse, Mem{Base: inverses})
	ADDQ(U8(4*groupBlocks), scales)
	ADDQ(U8(4*groupBlocks), inverses)
	ADDQ(I32(groupBlocks*blockSize*from.bytes), src)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VCMPPS(U8(unordered), bad, bad, bad)
	jumpIfAny(bad, "done")
	jumpIfAny(flat, "zeros")
	Label("sound")
}

// nbitsEncoder turns blocks into codes.
type nbitsEncoder struct {
	quantizer
	bits   int
	middle reg.VecVirtual // the code of 0, as F32
	most   reg.VecVirtual // 4 bits: the largest code, in each byte
	pairs  pairs
}

func newNbitsEncoder(v isa, bits int, from element) nbitsEncoder {
	e := nbitsEncoder{quantizer: v.newQuantizer(from), bits: bits, middle: v.all(math.Float32bits(float32(int(1) << (bits - 1)))), most: YMM()}
	if bits == 4 {
		e.pairs = newPairs()
		VPBROADCASTB(constant(15), e.most)
	} else {
		VPBROADCASTB(constant(0x80), e.most)
	}
	return e
}

// encode writes the codes of the block at src, times the F32 at inverse.
func (e nbitsEncoder) encode(inverse, src, dst Mem) {
	factor := e.vec()
	VBROADCASTSS(inverse, factor)
	x := e.load(src)
	for i := range x {
		VMULPS(factor, x[i], x[i])
		VADDPS(e.middle, x[i], x[i])
		e.roundAway(x[i])
		if e.bits == 8 {
			VPSUBD(e.all(128), x[i], x[i])
		}
	}
	q := e.pack(x)
	if e.bits == 8 {
		VPXOR(e.most, q, q) // 128 more
		VMOVDQU(q, dst)
		return
	}
	VPMINSB(e.most, q, q)
	VMOVDQU(e.pairs.join(q), dst)
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
