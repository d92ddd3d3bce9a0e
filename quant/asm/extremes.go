package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The bounds of a block are found among its values' bits, as integers: those
// are compared in any of the CPU's units, and infinity and NaN come out on top.
// The largest of signed integers is the largest value unless all have their
// sign set; the largest of unsigned ones is the least value if any has; and the
// smallest of unsigned ones is the bound that is missing where all signs are
// equal.

// bounds returns the least and the largest values of the group's blocks, one
// to a lane, as F32, where they have values of both signs.
func (s scan) bounds() (least, most reg.VecVirtual) {
	b := folds{unsignedMost(s.from), signedMost(s.from)}.ofEight(s.from, s.src)
	return b[0], b[1]
}

func signedMost(e element) fold {
	if e == f32 {
		return func(a, b, dst Op) { VPMAXSD(a, b, dst) }
	}
	return func(a, b, dst Op) { VPMAXSW(a, b, dst) }
}

func unsignedMost(e element) fold { return largerBits(e) }

func unsignedLeast(e element) fold {
	if e == f32 {
		return func(a, b, dst Op) { VPMINUD(a, b, dst) }
	}
	return func(a, b, dst Op) { VPMINUW(a, b, dst) }
}

// ofEight returns what ops leave of each of the 8 blocks of 32 elements that
// follow each other at src, one to a lane, as F32.
func (ops folds) ofEight(e element, src reg.GPVirtual) []reg.VecVirtual {
	all := ops.eight(func(i int) []reg.VecVirtual {
		var x, left []reg.VecVirtual
		for j := 0; j < blockSize*e.bytes; j += 32 {
			x = append(x, YMM())
			VMOVDQU(Mem{Base: src, Disp: i*blockSize*e.bytes + j}, x[len(x)-1])
		}
		for _, op := range ops {
			most := YMM()
			op(x[0], x[1], most)
			for _, x := range x[2:] {
				op(x, most, most)
			}
			left = append(left, most)
		}
		return left
	})
	if e != f32 {
		for i, op := range ops {
			widen(e, op, all[i])
		}
	}
	return all
}

// widen makes F32 of the two 16-bit elements in each lane that op leaves.
func widen(e element, op fold, x reg.VecVirtual) {
	other := YMM()
	VPSLLD(U8(16), x, other)
	op(other, x, x)
	VPSRLD(U8(16), x, x)
	if e == bf16 {
		VPSLLD(U8(16), x, x)
		return
	}
	const evenQuads = 0x08
	VPACKUSDW(x, x, x)
	VPERMQ(U8(evenQuads), x, x)
	VCVTPH2PS(x.AsX(), x)
}
