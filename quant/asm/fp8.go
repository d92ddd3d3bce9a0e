package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// float8 is an 8-bit float, as dtype/fp8.go rounds to it.
type float8 struct {
	name  string
	shift uint64 // from F32's fraction to its own
	bias  uint32 // F32's minus its own
	small uint32 // the F32 bits of its smallest normal number
	magic float32
}

var (
	e4m3  = float8{"E4M3", 20, 120, 0x3c800000, 1 << 14}
	e5m2  = float8{"E5M2", 21, 112, 0x38800000, 1 << 7}
	fp8es = []float8{e4m3, e5m2}
)

// fp8Kernel divides n finite elements by scale and rounds the quotients, which
// are at most the largest float8, and a rounding; n is a multiple of 32. The
// divider is exact here too: quotients are under 2^17, and below 2^-17 all of
// them round to 0.
func fp8Kernel(v isa, to float8, from element) {
	name := "fp8" + to.name + from.name + v.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int, scale float32)")
	Pragma("noescape")
	Doc(name + " divides n finite " + from.name + " by scale into " + to.name + ".")
	dst, src, n := arguments()
	scale := XMM()
	Load(Param("scale"), scale)
	d := v.newDivider(scale)
	b, r := v.newBlock(from), v.newRounder8(to)
	Label("loop")
	fetch(Mem{Base: src}, blockSize*from.bytes)
	x := b.load(Mem{Base: src})
	for i := range x {
		sign := r.sign(x[i]) // the divider loses that of -0
		x[i] = r.round(d.divide(x[i]), sign)
	}
	VMOVDQU(b.pack(x), Mem{Base: dst})
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(U8(blockSize), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// rounder8 turns F32 into a float8.
type rounder8 struct {
	isa
	to                                           float8
	magnitude, upper, one, bias, magic, smallest reg.VecVirtual
}

// newRounder8 loads what round needs before the loop.
func (v isa) newRounder8(to float8) rounder8 {
	r := rounder8{isa: v, to: to}
	r.magnitude, r.upper, r.one = v.all(0x7fffffff), v.all(0xffffff80), v.all(1)
	// Half of the last place, less 1 which is added where that is odd.
	r.bias = v.all(1<<(to.shift-1) - 1 - to.bias<<23)
	r.magic = v.all(math.Float32bits(to.magic))
	r.smallest = v.all(to.small)
	return r
}

// sign returns what turns x's float8, without its sign, into an int32 that the
// pack leaves as it is: 128 less if x is negative.
func (r rounder8) sign(x reg.VecVirtual) reg.VecVirtual {
	sign := r.vec()
	VPSRAD(U8(24), x, sign)
	r.and(r.upper, sign, sign)
	return sign
}

// round returns the float8 of |y| with the bits of sign set.
func (r rounder8) round(y, sign reg.VecVirtual) reg.VecVirtual {
	magnitude, normal, small := r.vec(), r.vec(), r.vec()
	r.and(r.magnitude, y, magnitude)
	VPSRLD(U8(r.to.shift), magnitude, normal)
	r.and(r.one, normal, normal)
	VPADDD(r.bias, normal, normal)
	VPADDD(magnitude, normal, normal)
	VPSRLD(U8(r.to.shift), normal, normal)
	// Under the smallest normal number the sum's last place is the smallest step.
	VADDPS(r.magic, magnitude, small)
	VPSUBD(r.magic, small, small)
	if r.isa == avx512 {
		k := K()
		VPCMPUD(U8(lessInt), r.smallest, magnitude, k)
		VMOVDQA32(small, k, normal)
		VPORD(sign, normal, normal)
		return normal
	}
	VPCMPGTD(magnitude, r.smallest, magnitude)
	VPBLENDVB(magnitude, small, normal, normal)
	VPOR(sign, normal, normal)
	return normal
}

// lessInt is the predicate of VPCMPUD: x < y for VPCMPUD(lessInt, y, x, k).
const lessInt = 1
