package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// blockSize is the number of elements that load and pack work on.
const blockSize = 32

// block reads 32 elements as F32 and writes 32 int8. BF16 is split into its
// even and its odd elements, each a shift or a mask away from F32, and joined
// again as 16-bit lanes: fewer shuffles than widening and packing in order.
type block struct {
	isa
	from  element
	high  reg.VecVirtual    // BF16: the upper half of each 32-bit lane
	odd   reg.OpmaskVirtual // BF16, AVX-512: the odd 16-bit lanes
	order reg.VecVirtual    // AVX2: undoes what packing in 128-bit halves does
}

// newBlock loads what load and pack need before the loop.
func (v isa) newBlock(from element) block {
	b := block{isa: v, from: from}
	switch {
	case from == bf16:
		b.high = v.all(0xffff0000)
		if v == avx512 {
			lanes := GP32()
			MOVL(U32(0xaaaaaaaa), lanes)
			b.odd = K()
			KMOVD(lanes, b.odd)
		}
	case v == avx2:
		b.order = YMM()
		VMOVDQU(constants32("order", 0, 4, 1, 5, 2, 6, 3, 7), b.order)
	}
	return b
}

// load reads 32 elements, in the order that pack expects.
func (b block) load(at Mem) []reg.VecVirtual {
	if b.from != bf16 {
		return b.loadBlock(b.from, at)
	}
	var x []reg.VecVirtual
	for i := 0; i < blockSize*bf16.bytes; i += b.bytes {
		even, odd := b.vec(), b.vec()
		b.isa.load(at.Offset(i), even)
		b.and(b.high, even, odd)
		VPSLLD(U8(16), even, even)
		x = append(x, even, odd)
	}
	return x
}

// pack returns 32 int32 as saturated int8, in order, in a YMM register; of
// those of BF16 it takes the low halves as they are.
func (b block) pack(x []reg.VecVirtual) reg.VecVirtual {
	switch {
	case b.from == bf16 && b.isa == avx512:
		y := YMM()
		VPSLLD(U8(16), x[1], x[1])
		VPBLENDMW(x[1], x[0], b.odd, x[0])
		VPMOVSWB(x[0], y)
		return y
	case b.from == bf16:
		const oddWords, evenThenOdd = 0xaa, 0xd8
		for i := 0; i < 4; i += 2 {
			VPSLLD(U8(16), x[i+1], x[i+1])
			VPBLENDW(U8(oddWords), x[i+1], x[i], x[i])
		}
		VPACKSSWB(x[2], x[0], x[0])
		VPERMQ(U8(evenThenOdd), x[0], x[0])
		return x[0]
	case b.isa == avx512:
		y, z := YMM(), XMM()
		VPMOVSDB(x[0], y.AsX())
		VPMOVSDB(x[1], z)
		VINSERTI128(U8(1), z, y, y)
		return y
	default:
		VPACKSSDW(x[1], x[0], x[0])
		VPACKSSDW(x[3], x[2], x[2])
		VPACKSSWB(x[2], x[0], x[0])
		VPERMD(x[0], b.order, x[0])
		return x[0]
	}
}

// loadBlock reads 32 elements as F32, in order.
func (v isa) loadBlock(e element, at Mem) []reg.VecVirtual {
	x := make([]reg.VecVirtual, blockSize/v.lanes())
	for i := range x {
		x[i] = v.loadF32(e, at.Offset(i*v.lanes()*e.bytes))
	}
	return x
}
