package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The arrays of a search with a minimum, and its single rows.
const (
	arrayX = iota
	arrayW // weights
	arrayL // integers of the try
)

const (
	rowHigh = iota
	rowSome // whether the range is not empty
	rowSumW
	rowSumX
	rowBest
)

// The fields of rangeFit, 16 F32 each.
const (
	fitScale   = 0
	fitLeast   = 64
	fitInverse = 128
	fitLow     = 192
)

// rangeKernel is rangeSearch.fit for 8 groups: of 32 values with the square
// of the error, or of 16 with the error itself (absolute).
func rangeKernel(name string, values int, absolute bool) {
	TEXT(name, NOSPLIT, "func(fit, x, scratch, tries *float32, n int, steps int32)")
	Pragma("noescape")
	Doc(name + " fits 8 groups of x with n tries, the first of them steps, which is the largest integer.")
	param := func(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }
	fit, x, tries, n := param("fit"), param("x"), param("tries"), param("n")
	s := rangeLanes{lanes: newLanes(param("scratch"), values), absolute: absolute}
	field := func(at int) Mem { return Mem{Base: fit, Disp: at} }
	steps, none := Load(Param("steps"), GP32()).(reg.GPVirtual), GP32()
	s.transpose(x)
	low := s.weigh()
	XORL(none, none)
	s.nearest = newNearest(none, steps)

	// The first try has the range's own scale and minimum.
	inverse, scale := s.inverse(tries, low), avx2.all(math.Float32bits(1))
	VDIVPS(inverse, scale, scale)
	s.integers("first", inverse, low, nil)
	VMOVUPS(s.misfit("firstError", scale, low), s.row(rowBest))
	// An empty range has the scale 0. Its inverse is infinite, and 0 times that
	// becomes the integer 0, which no try can better: Σ w·l² is 0.
	VANDPS(s.row(rowSome), scale, scale)
	VMOVUPS(scale, field(fitScale))
	VMOVUPS(low, field(fitLeast)) // the minimum itself, until the end
	VMOVUPS(inverse, field(fitInverse))
	VMOVUPS(low, field(fitLow))
	DECQ(n)

	Label("try")
	ADDQ(U8(4), tries)
	s.try(tries, field)
	DECQ(n)
	JNZ(LabelRef("try"))

	least := YMM()
	VXORPS(field(fitLeast), avx2.all(1<<31), least)
	VMOVUPS(least, field(fitLeast))
	VZEROUPPER()
	RET()
}

type rangeLanes struct {
	lanes
	absolute bool
	nearest  nearest
}

// weigh fills the weights and the rows that do not change, and returns the
// minima, at most 0.
func (s rangeLanes) weigh() (low reg.VecVirtual) {
	low = YMM()
	magnitude, mean, high := avx2.all(0x7fffffff), YMM(), YMM()
	sumW, sumX, zero, some := YMM(), YMM(), YMM(), YMM()
	if !s.absolute {
		VXORPS(mean, mean, mean)
		s.each("squares", func(at func(int) Mem) {
			v := YMM()
			VMOVUPS(at(arrayX), v)
			VMULPS(v, v, v)
			VADDPS(v, mean, mean)
		})
		VMULPS(avx2.all(math.Float32bits(1.0/32)), mean, mean)
		VSQRTPS(mean, mean)
	}
	VMOVUPS(Mem{Base: s.base}, low)
	VMOVAPS(low, high)
	VXORPS(sumW, sumW, sumW)
	VXORPS(sumX, sumX, sumX)
	s.each("weights", func(at func(int) Mem) {
		v, w := YMM(), YMM()
		VMOVUPS(at(arrayX), v)
		VMINPS(v, low, low)
		VMAXPS(v, high, high)
		VANDPS(magnitude, v, w)
		if !s.absolute {
			VADDPS(mean, w, w)
		}
		VMOVUPS(w, at(arrayW))
		VADDPS(w, sumW, sumW)
		VMULPS(v, w, w)
		VADDPS(w, sumX, sumX)
	})
	VXORPS(zero, zero, zero)
	VMINPS(zero, low, low)
	VCMPPS(U8(notEqual), low, high, some)
	for i, r := range []reg.VecVirtual{rowHigh: high, rowSome: some, rowSumW: sumW, rowSumX: sumX} {
		VMOVUPS(r, s.row(i))
	}
	return low
}

// inverse returns the inverse scale that a try makes of the range.
func (s rangeLanes) inverse(try reg.GPVirtual, low reg.VecVirtual) reg.VecVirtual {
	r, inverse := YMM(), YMM()
	VMOVUPS(s.row(rowHigh), r)
	VSUBPS(low, r, r)
	VBROADCASTSS(Mem{Base: try}, inverse)
	VDIVPS(r, inverse, inverse)
	return inverse
}

// sums are Σ w·l, Σ w·l² and Σ w·l·x.
type sums struct{ l, l2, xl reg.VecVirtual }

// integers sets the integers and adds up what sum asks for.
func (s rangeLanes) integers(label string, inverse, low reg.VecVirtual, sum *sums) {
	s.each(label, func(at func(int) Mem) {
		x, l := YMM(), YMM()
		VMOVUPS(at(arrayX), x)
		VSUBPS(low, x, l)
		VMULPS(inverse, l, l)
		s.nearest.round(l)
		VMOVUPS(l, at(arrayL))
		if sum == nil {
			return
		}
		wl := YMM()
		VMULPS(at(arrayW), l, wl)
		VADDPS(wl, sum.l, sum.l)
		VMULPS(wl, l, l)
		VADDPS(l, sum.l2, sum.l2)
		VMULPS(wl, x, x)
		VADDPS(x, sum.xl, sum.xl)
	})
}

// misfit returns the weighted error of a fit.
func (s rangeLanes) misfit(label string, scale, low reg.VecVirtual) reg.VecVirtual {
	var magnitude reg.VecVirtual
	if s.absolute {
		magnitude = avx2.all(0x7fffffff)
	}
	sum := YMM()
	VXORPS(sum, sum, sum)
	s.each(label, func(at func(int) Mem) {
		off := YMM()
		VMULPS(at(arrayL), scale, off)
		VADDPS(low, off, off)
		VSUBPS(at(arrayX), off, off)
		if s.absolute {
			VANDPS(magnitude, off, off)
		} else {
			VMULPS(off, off, off)
		}
		VMULPS(at(arrayW), off, off)
		VADDPS(off, sum, sum)
	})
	return sum
}

// try fits with one more inverse scale, and keeps what is better.
func (s rangeLanes) try(tries reg.GPVirtual, field func(int) Mem) {
	from := YMM()
	VMOVUPS(field(fitLeast), from)
	inverse := s.inverse(tries, from)
	sum := sums{YMM(), YMM(), YMM()}
	for _, r := range []reg.VecVirtual{sum.l, sum.l2, sum.xl} {
		VXORPS(r, r, r)
	}
	s.integers("integers", inverse, from, &sum)

	det, t, scale, low := YMM(), YMM(), YMM(), YMM()
	VMULPS(s.row(rowSumW), sum.l2, det)
	VMULPS(sum.l, sum.l, t)
	VSUBPS(t, det, det)
	VMULPS(s.row(rowSumW), sum.xl, scale)
	VMULPS(s.row(rowSumX), sum.l, t)
	VSUBPS(t, scale, scale)
	VDIVPS(det, scale, scale)
	VMULPS(s.row(rowSumX), sum.l2, low)
	VMULPS(sum.l, sum.xl, t)
	VSUBPS(t, low, low)
	VDIVPS(det, low, low)

	zero, above, better := YMM(), YMM(), YMM()
	VXORPS(zero, zero, zero)
	VCMPPS(U8(greater), zero, low, above) // then the minimum is 0
	VANDNPS(low, above, low)
	VDIVPS(sum.l2, sum.xl, sum.xl)
	VBLENDVPS(above, sum.xl, scale, scale)
	VCMPPS(U8(greater), zero, det, better)

	e, under := s.misfit("error", scale, low), YMM()
	VCMPPS(U8(less), s.row(rowBest), e, under)
	VANDPS(under, better, better)
	for _, kept := range []struct {
		r reg.VecVirtual
		m Mem
	}{{e, s.row(rowBest)}, {scale, field(fitScale)}, {low, field(fitLeast)}, {inverse, field(fitInverse)}, {from, field(fitLow)}} {
		old := YMM()
		VMOVUPS(kept.m, old)
		VBLENDVPS(better, kept.r, old, old)
		VMOVUPS(old, kept.m)
	}
}
