package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The searches of the K types run over 8 groups at once, one to a lane, so
// that each lane adds up in the order that the portable search does. What they
// need lies in memory that the caller gives (laneScratch in package quant): a
// few arrays with a row of 8 F32 for each value of a group, then single rows.
const (
	laneGroups = 8
	laneRow    = 4 * laneGroups
	laneArray  = 32 * laneRow
	laneArrays = 3
	laneRows   = 8 // single ones
)

// lanes is that memory.
type lanes struct {
	base   reg.GPVirtual
	values int // in a group
}

// newLanes takes the memory at scratch, from where a row never lies across two
// cache lines.
func newLanes(scratch reg.GPVirtual, values int) lanes {
	ADDQ(U8(laneRow-1), scratch)
	ANDQ(I8(-laneRow), scratch)
	return lanes{scratch, values}
}

// row returns single row i.
func (l lanes) row(i int) Mem { return Mem{Base: l.base, Disp: laneArrays*laneArray + i*laneRow} }

// each emits body in a loop over the values of a group. at(i) is the row of
// array i. Label is the loop's.
func (l lanes) each(label string, body func(at func(array int) Mem)) {
	const unrolled = 4
	row := GP64()
	XORQ(row, row)
	Label(label)
	for i := range unrolled {
		body(func(array int) Mem {
			return Mem{Base: l.base, Index: row, Scale: 1, Disp: array*laneArray + i*laneRow}
		})
	}
	ADDQ(U32(unrolled*laneRow), row)
	CMPQ(row, U32(l.values*laneRow))
	JNE(LabelRef(label))
}

// transpose fills array 0 with 8 groups that follow each other at x.
func (l lanes) transpose(x reg.GPVirtual) {
	for i := 0; i < l.values; i += 4 {
		// Four values of groups j and, above them, of j + 4.
		var r [4]reg.VecVirtual
		for j := range r {
			at := Mem{Base: x, Disp: 4 * (j*l.values + i)}
			r[j] = YMM()
			VBROADCASTF128(at, r[j])
			VINSERTF128(U8(1), at.Offset(4*4*l.values), r[j], r[j])
		}
		a, b, c, d := YMM(), YMM(), YMM(), YMM()
		VUNPCKLPS(r[1], r[0], a)
		VUNPCKHPS(r[1], r[0], b)
		VUNPCKLPS(r[3], r[2], c)
		VUNPCKHPS(r[3], r[2], d)
		VUNPCKLPD(c, a, r[0])
		VUNPCKHPD(c, a, r[1])
		VUNPCKLPD(d, b, r[2])
		VUNPCKHPD(d, b, r[3])
		for j := range r {
			VMOVUPS(r[j], Mem{Base: l.base, Disp: (i + j) * laneRow})
		}
	}
}

// nearest rounds as package quant's function of that name does, to an integer
// held in a range. An integer k is 0x400000 + k in the low 23 bits of 1.5·2²³
// + k.
type nearest struct{ magic, mask, low, high, exponent reg.VecVirtual }

const (
	roundMagic    = 0x4b400000 // 1.5·2²³
	roundExponent = 0x4b000000
	roundMask     = 0x007fffff
	roundZero     = 0x00400000
)

// newNearest holds integers in [low, high], 32-bit registers.
func newNearest(low, high reg.GPVirtual) nearest {
	return nearest{avx2.all(roundMagic), avx2.all(roundMask), heldAt(low), heldAt(high), avx2.all(roundExponent)}
}

// heldAt returns a bound of the low 23 bits.
func heldAt(bound reg.GPVirtual) reg.VecVirtual {
	at, v := GP32(), YMM()
	LEAL(Mem{Base: bound, Disp: roundZero}, at)
	VMOVD(at, v.AsX())
	VPBROADCASTD(v.AsX(), v)
	return v
}

// bits leaves 0x400000 + k.
func (n nearest) bits(y reg.VecVirtual) {
	VADDPS(n.magic, y, y)
	VPAND(n.mask, y, y)
	VPMAXSD(n.low, y, y)
	VPMINSD(n.high, y, y)
}

// round leaves k as F32.
func (n nearest) round(y reg.VecVirtual) {
	n.bits(y)
	VPOR(n.exponent, y, y)
	VSUBPS(n.magic, y, y)
}

// The ordered predicates of VCMPPS: x OP y for VCMPPS(OP, y, x, mask).
const (
	less           = 17
	lessOrEqual    = 18
	greaterOrEqual = 29
	greater        = 30
)

// roundKernel rounds (x + least) / scale for 16 runs of 16 values, into bytes.
func roundKernel() {
	TEXT("roundAVX2", NOSPLIT, "func(q *byte, x, scales, least *float32, low, high int32)")
	Pragma("noescape")
	Doc("roundAVX2 is roundPortable.")
	q := Load(Param("q"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64()).(reg.GPVirtual)
	scales := Load(Param("scales"), GP64()).(reg.GPVirtual)
	least := Load(Param("least"), GP64()).(reg.GPVirtual)
	low := Load(Param("low"), GP32()).(reg.GPVirtual)
	high := Load(Param("high"), GP32()).(reg.GPVirtual)
	n := newNearest(low, high)
	const run = 16
	left, bits := GP64(), GP32()
	MOVQ(U32(256/run), left)
	Label("run")
	MOVL(Mem{Base: scales}, bits)
	ADDL(bits, bits) // 0 for -0 too
	JZ(LabelRef("next"))
	scale, add, y, z := YMM(), YMM(), YMM(), YMM()
	VBROADCASTSS(Mem{Base: scales}, scale)
	VBROADCASTSS(Mem{Base: least}, add)
	for i, r := range []reg.VecVirtual{y, z} {
		VADDPS(Mem{Base: x, Disp: 32 * i}, add, r)
		VDIVPS(scale, r, r)
		n.bits(r)
		VPSUBD(n.low, r, r)
	}
	const evenThenOdd = 0xd8
	VPACKSSDW(z, y, y)
	VPERMQ(U8(evenThenOdd), y, y)
	VEXTRACTI128(U8(1), y, z.AsX())
	VPACKUSWB(z.AsX(), y.AsX(), y.AsX())
	VMOVDQU(y.AsX(), Mem{Base: q})
	Label("next")
	ADDQ(U8(run), q)
	ADDQ(U8(4*run), x)
	ADDQ(U8(4), scales)
	ADDQ(U8(4), least)
	DECQ(left)
	JNZ(LabelRef("run"))
	VZEROUPPER()
	RET()
}
