package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// arrayWX is a search without a minimum's array of w·x.
const arrayWX = 2

// signedInverse is where signedFit has the inverse.
const signedInverse = 64

// signedKernel is fitSigned for 8 groups of 16 values.
func signedKernel() {
	const steps = 32 // q6KSteps
	TEXT("fitSignedAVX2", NOSPLIT, "func(fit, x, scratch, tries *float32, n int)")
	Pragma("noescape")
	Doc("fitSignedAVX2 fits 8 groups of 16 x with n tries.")
	param := func(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }
	fit, x, tries, n := param("fit"), param("x"), param("tries"), param("n")
	s := signedLanes{lanes: newLanes(param("scratch"), 16)}
	low, high := GP32(), GP32()
	s.transpose(x)
	some := s.weigh()
	MOVL(I32(-steps), low)
	MOVL(U32(steps-1), high)
	s.nearest = newNearest(low, high)

	inverse := s.inverse(tries)
	xl, l2 := s.sums("first", inverse)
	scale, best, zero := YMM(), YMM(), YMM()
	VDIVPS(l2, xl, scale) // l2 is not 0: the largest l is -32, and its w 1e-30 or more
	VMULPS(scale, xl, best)
	DECQ(n)

	Label("try")
	ADDQ(U8(4), tries)
	tryInverse := s.inverse(tries)
	xl, l2 = s.sums("sums", tryInverse)
	better, square, bar := YMM(), YMM(), YMM()
	VXORPS(zero, zero, zero)
	VCMPPS(U8(greater), zero, l2, better)
	VMULPS(xl, xl, square)
	VMULPS(best, l2, bar)
	VCMPPS(U8(greater), bar, square, square)
	VANDPS(square, better, better)
	VDIVPS(l2, xl, l2)
	VBLENDVPS(better, l2, scale, scale)
	VMULPS(scale, xl, xl)
	VBLENDVPS(better, xl, best, best)
	VBLENDVPS(better, tryInverse, inverse, inverse)
	DECQ(n)
	JNZ(LabelRef("try"))

	VANDPS(some, scale, scale)
	VANDPS(some, inverse, inverse)
	VMOVUPS(scale, Mem{Base: fit})
	VMOVUPS(inverse, Mem{Base: fit, Disp: signedInverse})
	VZEROUPPER()
	RET()
}

type signedLanes struct {
	lanes
	nearest nearest
}

const rowMost = 0 // the value of the largest magnitude

// weigh fills the weights and rowMost, and returns where the largest
// magnitudes are not too small.
func (s signedLanes) weigh() (some reg.VecVirtual) {
	const groupEpsilon = 1e-15
	magnitude, value, most := avx2.all(0x7fffffff), YMM(), YMM()
	some = YMM()
	VXORPS(value, value, value)
	VXORPS(most, most, most)
	s.each("weights", func(at func(int) Mem) {
		v, a, more := YMM(), YMM(), YMM()
		VMOVUPS(at(arrayX), v)
		VANDPS(magnitude, v, a)
		VCMPPS(U8(greater), most, a, more)
		VBLENDVPS(more, v, value, value)
		VMAXPS(a, most, most)
		VMULPS(v, v, a)
		VMOVUPS(a, at(arrayW))
		VMULPS(v, a, a)
		VMOVUPS(a, at(arrayWX))
	})
	VMOVUPS(value, s.row(rowMost))
	VCMPPS(U8(greaterOrEqual), avx2.all(math.Float32bits(groupEpsilon)), most, some)
	return some
}

// inverse returns the inverse scale of a try.
func (s signedLanes) inverse(try reg.GPVirtual) reg.VecVirtual {
	inverse := YMM()
	VBROADCASTSS(Mem{Base: try}, inverse)
	VDIVPS(s.row(rowMost), inverse, inverse)
	return inverse
}

// sums returns Σ w·x·l and Σ w·l².
func (s signedLanes) sums(label string, inverse reg.VecVirtual) (xl, l2 reg.VecVirtual) {
	xl, l2 = YMM(), YMM()
	VXORPS(xl, xl, xl)
	VXORPS(l2, l2, l2)
	s.each(label, func(at func(int) Mem) {
		l, t := YMM(), YMM()
		VMULPS(at(arrayX), inverse, l)
		s.nearest.round(l)
		VMULPS(at(arrayWX), l, t)
		VADDPS(t, xl, xl)
		VMULPS(at(arrayW), l, t)
		VMULPS(l, t, t)
		VADDPS(t, l2, l2)
	})
	return xl, l2
}
