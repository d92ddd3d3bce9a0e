package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The middles between the levels of a code book: nf4Middles of quant/nf4.go,
// and those between the magnitudes of FP4, in half steps.
var (
	nf4Middles = []float32{
		-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
		-0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
		0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
		0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
	}
	fp4Middles = []float32{1, 3, 5, 7, 10, 14, 20}
)

// levels finds codes by halving: step i of the search compares with one of 2^i
// middles, which a permutation looks up.
type levels struct{ steps []reg.VecVirtual }

// newLevels takes 2^n - 1 middles, at most 15.
func newLevels(name string, middles []float32) (l levels) {
	for stride := (len(middles) + 1) / 2; stride > 0; stride /= 2 {
		var table [8]uint32
		for i := range table {
			if at := (2*i+1)*stride - 1; at < len(middles) {
				table[i] = math.Float32bits(middles[at])
			}
		}
		step := YMM()
		VMOVDQU(constants32(fmt.Sprintf("%sStep%d", name, len(l.steps)), table[:]...), step)
		l.steps = append(l.steps, step)
	}
	return l
}

// code makes of F32 how many middles are below it.
func (l levels) code(y reg.VecVirtual) reg.VecVirtual {
	code, middle := YMM(), YMM()
	VPXOR(code, code, code)
	for _, step := range l.steps {
		VPERMPS(step, code, middle)
		VCMPPS(U8(greater), middle, y, middle)
		VPADDD(code, code, code)
		VPSUBD(middle, code, code)
	}
	return code
}

// nf4Kernel writes the codes of n elements times a factor, two in a byte, the
// first one high. n is a multiple of 32.
func nf4Kernel(from element) {
	levelsKernel("nf4", from, func(b block) func(x []reg.VecVirtual) reg.Register {
		l, pairs := newLevels("nf4", nf4Middles), pairs{YMM()}
		VPBROADCASTW(constant(0x0110), pairs.factors) // times 16 and times 1
		return func(x []reg.VecVirtual) reg.Register {
			for i := range x {
				x[i] = l.code(x[i])
			}
			return pairs.join(b.pack(x))
		}
	})
}

// fp4Kernel writes the FP4 of n elements times a factor, which are half steps,
// as mxfp4 has them: value j of 32 in the low and j+16 in the high four bits.
func fp4Kernel(from element) {
	levelsKernel("fp4", from, func(b block) func(x []reg.VecVirtual) reg.Register {
		l, zero := newLevels("fp4", fp4Middles), YMM()
		magnitude, negative := avx2.all(1<<31-1), avx2.all(8)
		VPXOR(zero, zero, zero)
		return func(x []reg.VecVirtual) reg.Register {
			for i := range x {
				sign, none := YMM(), YMM()
				VPSRLD(U8(28), x[i], sign)
				VPAND(negative, sign, sign)
				VPAND(magnitude, x[i], x[i])
				x[i] = l.code(x[i])
				VPCMPEQD(zero, x[i], none)
				VPANDN(sign, none, sign) // a zero has no sign
				VPOR(sign, x[i], x[i])
			}
			q, upper := b.pack(x), XMM()
			VEXTRACTI128(U8(1), q, upper)
			VPSLLW(U8(4), upper, upper)
			VPOR(q.AsX(), upper, upper)
			return upper
		}
	})
}

// levelsKernel multiplies 32 elements at a time and stores the 16 bytes that
// codes makes of them.
func levelsKernel(codes string, from element, encode func(b block) func(x []reg.VecVirtual) reg.Register) {
	name := codes + from.name + avx2.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int, factor float32)")
	Pragma("noescape")
	Doc(name + " writes the codes of n finite " + from.name + " times factor.")
	dst, src, n := arguments()
	factor := YMM()
	VBROADCASTSS(NewParamAddr("factor", 24), factor)
	b := avx2.newBlock(from)
	pack := encode(b)
	Label("loop")
	fetch(Mem{Base: src}, blockSize*from.bytes)
	x := b.load(Mem{Base: src})
	for i := range x {
		VMULPS(factor, x[i], x[i])
	}
	VMOVDQU(pack(x), Mem{Base: dst})
	ADDQ(I32(blockSize*from.bytes), src)
	ADDQ(U8(blockSize/2), dst)
	SUBQ(U8(blockSize), n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
