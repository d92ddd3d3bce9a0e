package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// firstIsNegative returns all ones if the first value at m whose magnitude has
// the bits at most is negative, and otherwise 0.
func (e encoder) firstIsNegative(m, most Mem) reg.GPVirtual {
	found, signs := e.foundAndSigns(m, most)
	first := GP32()
	MOVL(found, first)
	NEGL(first)
	ANDL(found, first)
	ANDL(signs, first)
	NEGL(first) // sets the carry unless it was 0
	SBBL(first, first)
	return first
}

// foundAndSigns returns a bit for each of 32 elements: whether its magnitude
// has the bits at most, and its sign.
func (e encoder) foundAndSigns(m, most Mem) (found, signs reg.GPVirtual) {
	found, signs = GP32(), GP32()
	want := e.vec()
	if e.from == f32 {
		VPBROADCASTD(most, want)
	} else {
		VPBROADCASTW(most, want)
	}
	var x, equal []reg.VecVirtual
	var k, s []reg.OpmaskVirtual
	for i := 0; i < blockSize*e.from.bytes; i += e.bytes {
		r, magnitudes := e.vec(), e.vec()
		e.isa.load(m.Offset(i), r)
		e.and(e.magnitude, r, magnitudes)
		x = append(x, r)
		if e.isa == avx2 {
			compare := VPCMPEQW
			if e.from == f32 {
				compare = VPCMPEQD
			}
			compare(want, magnitudes, magnitudes)
			equal = append(equal, magnitudes)
			continue
		}
		k, s = append(k, K()), append(s, K())
		last := len(k) - 1
		if e.from == f32 {
			VPCMPEQD(want, magnitudes, k[last])
			VPMOVD2M(r, s[last])
		} else {
			VPCMPEQW(want, magnitudes, k[last])
			VPMOVW2M(r, s[last])
		}
	}
	if e.isa == avx2 {
		VPMOVMSKB(e.signBytes(equal), found)
		VPMOVMSKB(e.signBytes(x), signs)
		return found, signs
	}
	if e.from == f32 {
		KUNPCKWD(k[0], k[1], k[0])
		KUNPCKWD(s[0], s[1], s[0])
	}
	KMOVD(k[0], found)
	KMOVD(s[0], signs)
	return found, signs
}

// signBytes packs 32 elements into bytes, in order, that keep their signs.
func (e encoder) signBytes(x []reg.VecVirtual) reg.VecVirtual {
	if e.from == f32 {
		return e.pack(x)
	}
	const evenThenOdd = 0xd8
	VPACKSSWB(x[1], x[0], x[0])
	VPERMQ(U8(evenThenOdd), x[0], x[0])
	return x[0]
}
