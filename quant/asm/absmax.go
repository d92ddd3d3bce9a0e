package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// magnitude is the mask that clears the signs of a vector of e.
func magnitude(e element) uint32 {
	if e == f32 {
		return 0x7fffffff
	}
	return 0x7fff7fff
}

// fold is an instruction that takes one of two values, lane by lane; folds
// work side by side.
type (
	fold  = func(a, b, dst Op)
	folds []fold
)

// maxBits takes the larger of each lane's bits, which are ordered like the
// magnitudes that they stand for: infinity above numbers, NaN above infinity.
func maxBits(e element, a, b, dst Op) { largerBits(e)(a, b, dst) }

func largerBits(e element) fold {
	if e == f32 {
		return func(a, b, dst Op) { VPMAXUD(a, b, dst) }
	}
	return func(a, b, dst Op) { VPMAXUW(a, b, dst) }
}

// absmaxKernel returns the bits of the largest magnitude of n elements, as the
// source type has them; n is a multiple of four vectors.
func absmaxKernel(v isa, from element) {
	TEXT("absmax"+from.name+v.name, NOSPLIT, "func(src *byte, n int) uint32")
	Pragma("noescape")
	Doc("absmax" + from.name + v.name + " returns the largest magnitude's bits, in the type's own width.")
	src := Load(Param("src"), GP64()).(reg.GPVirtual)
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	mask := v.all(magnitude(from))
	most := make([]reg.VecVirtual, 4)
	for i := range most {
		most[i] = v.vec()
		VPXOR(most[i], most[i], most[i])
	}
	Label("loop")
	for i := range most {
		x := v.vec()
		v.and(Mem{Base: src, Disp: i * v.bytes}, mask, x)
		maxBits(from, x, most[i], most[i])
	}
	ADDQ(I32(4*v.bytes), src)
	SUBQ(I32(4*v.bytes/from.bytes), n)
	JNZ(LabelRef("loop"))
	maxBits(from, most[0], most[1], most[0])
	maxBits(from, most[2], most[3], most[2])
	maxBits(from, most[0], most[2], most[0])
	x := reduceMax(from, most[0])
	bits := GP32()
	VMOVD(x, bits)
	if from != f32 {
		MOVWLZX(bits.As16(), bits)
	}
	Store(bits, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// reduceMax returns an XMM register whose first element of type e is the
// largest of the YMM register r. What is behind that element is undefined.
func reduceMax(e element, r reg.VecVirtual) reg.VecVirtual {
	x, y := XMM(), XMM()
	VEXTRACTI128(U8(1), r, x)
	maxBits(e, r.AsX(), x, x)
	if e != f32 {
		// The one horizontal instruction finds a minimum: turn the order over.
		ones := XMM()
		VPCMPEQD(ones, ones, ones)
		VPXOR(ones, x, x)
		VPHMINPOSUW(x, x)
		VPXOR(ones, x, x)
		return x
	}
	VPSHUFD(U8(0x4e), x, y)
	VPMAXUD(x, y, x)
	VPSHUFD(U8(0xb1), x, y)
	VPMAXUD(x, y, x)
	return x
}

// blockMax returns a YMM register whose largest element is the largest
// magnitude of 32 elements. 256 bits are the better width for AVX-512 too: a
// wider vector would be folded back at once.
func blockMax(e element, at Mem, mask reg.VecVirtual) reg.VecVirtual {
	var most reg.VecVirtual
	for i := 0; i < blockSize*e.bytes; i += 32 {
		x := YMM()
		VPAND(at.Offset(i), mask, x)
		if most != nil {
			maxBits(e, most, x, x)
		}
		most = x
	}
	return most
}

// groupMax returns the F32 bits of the largest magnitudes of 8 blocks that
// follow each other, one to a lane.
func groupMax(e element, at Mem, mask reg.VecVirtual) reg.VecVirtual {
	all := folds{largerBits(e)}.eight(func(i int) []reg.VecVirtual {
		return []reg.VecVirtual{blockMax(e, at.Offset(i*blockSize*e.bytes), mask)}
	})[0]
	if e == f32 {
		return all
	}
	// Two 16-bit maxima a lane: the larger goes into the upper half.
	t := YMM()
	VPSLLD(U8(16), all, t)
	VPMAXUW(t, all, all)
	if e == bf16 {
		VPSRLD(U8(16), all, all)
		VPSLLD(U8(16), all, all)
		return all
	}
	const evenQuads = 0x08
	VPSRLD(U8(16), all, all)
	VPACKUSDW(all, all, all)
	VPERMQ(U8(evenQuads), all, all)
	VCVTPH2PS(all.AsX(), all)
	return all
}

// eight returns what each fold leaves of its own of 8 YMM registers, one to a
// 32-bit lane; of 16-bit elements two are left there. Each step folds two
// registers into one, so that all lanes work until the last.
func (ops folds) eight(registers func(i int) []reg.VecVirtual) []reg.VecVirtual {
	quarter := func(i int) []reg.VecVirtual { // 8 bytes each of i, i+1 | i+4, i+5
		a := ops.each(foldHalves, registers(i), registers(i+4))
		return ops.each(foldQuads, a, ops.each(foldHalves, registers(i+1), registers(i+5)))
	}
	a := quarter(0)
	return ops.each(foldDoubles, a, quarter(2))
}

func (ops folds) each(step func(op fold, a, b reg.VecVirtual) reg.VecVirtual, a, b []reg.VecVirtual) (all []reg.VecVirtual) {
	for i, op := range ops {
		all = append(all, step(op, a[i], b[i]))
	}
	return all
}

// foldHalves returns what is left of a's halves and, above it, of b's.
func foldHalves(op fold, a, b reg.VecVirtual) reg.VecVirtual {
	lo, hi := YMM(), YMM()
	VINSERTI128(U8(1), b.AsX(), a, lo)
	VPERM2I128(U8(0x31), b, a, hi)
	op(lo, hi, lo)
	return lo
}

// foldQuads folds the 64-bit pairs of a and of b, within each half.
func foldQuads(op fold, a, b reg.VecVirtual) reg.VecVirtual {
	lo, hi := YMM(), YMM()
	VPUNPCKLQDQ(b, a, lo)
	VPUNPCKHQDQ(b, a, hi)
	op(lo, hi, lo)
	return lo
}

// foldDoubles folds the 32-bit pairs of a and of b, within each half.
func foldDoubles(op fold, a, b reg.VecVirtual) reg.VecVirtual {
	lo, hi := YMM(), YMM()
	VSHUFPS(U8(0x88), b, a, lo)
	VSHUFPS(U8(0xdd), b, a, hi)
	op(lo, hi, lo)
	return lo
}
