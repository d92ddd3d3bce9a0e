package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is a vector width. Most instructions have one name for both and go by
// their operands; where AVX-512 renamed or added one, the helpers here choose.
type isa struct {
	name  string
	bytes int // in a vector
}

var (
	avx2   = isa{"AVX2", 32}
	avx512 = isa{"AVX512", 64}
)

// lanes is the number of F32 in a vector.
func (v isa) lanes() int { return v.bytes / 4 }

func (v isa) vec() reg.VecVirtual {
	if v == avx512 {
		return ZMM()
	}
	return YMM()
}

// low names the first 16 bytes of a vector.
func low(r reg.VecVirtual) reg.Register { return r.AsX() }

func (v isa) load(m Mem, dst reg.VecVirtual)  { v.move(m, dst) }
func (v isa) store(src reg.VecVirtual, m Mem) { v.move(src, m) }

func (v isa) move(from, to Op) {
	if v == avx512 {
		VMOVDQU32(from, to)
		return
	}
	VMOVDQU(from, to)
}

func (v isa) and(a, b, dst Op) {
	if v == avx512 {
		VPANDD(a, b, dst)
		return
	}
	VPAND(a, b, dst)
}

func (v isa) zero(r reg.VecVirtual) {
	if v == avx512 {
		VPXORD(r, r, r)
		return
	}
	VPXOR(r, r, r)
}

// element is a type that kernels read and write.
type element struct {
	name  string
	bytes int
}

var (
	f32   = element{"F32", 4}
	f16   = element{"F16", 2}
	bf16  = element{"BF16", 2}
	types = []element{f32, f16, bf16}
)

// loadF32 reads one vector of F32 from elements of type e at m. All three are
// exact.
func (v isa) loadF32(e element, m Mem) reg.VecVirtual {
	x := v.vec()
	switch e {
	case f32:
		v.load(m, x)
	case f16:
		VCVTPH2PS(m, x)
	case bf16:
		VPMOVZXWD(m, x)
		VPSLLD(U8(16), x, x)
	}
	return x
}

// constant returns the address of a read-only 32-bit value; equal ones share
// it.
func constant(bits uint32) Mem {
	m, ok := constants[bits]
	if !ok {
		m = ConstData(fmt.Sprintf("c%08x", bits), U32(bits))
		constants[bits] = m
	}
	return m
}

var constants = map[uint32]Mem{}

// all returns a vector with bits in each of its 32-bit lanes.
func (v isa) all(bits uint32) reg.VecVirtual {
	r := v.vec()
	VPBROADCASTD(constant(bits), r)
	return r
}

// magnitude is the mask that clears the signs of a vector of e.
func magnitude(e element) uint32 {
	if e == f32 {
		return 0x7fffffff
	}
	return 0x7fff7fff
}

// maxBits takes the larger of each lane's bits, which are ordered like the
// magnitudes that they stand for: infinity above numbers, NaN above infinity.
func maxBits(e element, a, b, dst Op) {
	if e == f32 {
		VPMAXUD(a, b, dst)
		return
	}
	VPMAXUW(a, b, dst)
}

// reduceMax returns an XMM register whose first element of type e is the
// largest of r's magnitudes. What is behind that element is undefined.
func (v isa) reduceMax(e element, r reg.VecVirtual) reg.VecVirtual {
	x, y := XMM(), XMM()
	if v == avx512 {
		h := YMM()
		VEXTRACTI64X4(U8(1), r, h)
		maxBits(e, r.AsY(), h, h)
		r = h
	}
	VEXTRACTI128(U8(1), r, x)
	maxBits(e, low(r), x, x)
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

// packer turns four AVX2 or two AVX-512 vectors of int32 into 32 saturated
// int8.
type packer struct {
	isa
	order reg.VecVirtual
}

// newPacker loads what pack needs before the loop.
func (v isa) newPacker() packer {
	p := packer{isa: v}
	if v == avx2 {
		if packOrder == nil {
			m := GLOBL("packOrder", attr.RODATA|attr.NOPTR)
			for i, lane := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
				DATA(4*i, U32(lane))
			}
			packOrder = &m
		}
		p.order = YMM()
		VMOVDQU(*packOrder, p.order)
	}
	return p
}

var packOrder *Mem

func (p packer) pack(in []reg.VecVirtual, m Mem) {
	if p.isa == avx512 {
		for i, r := range in {
			x := XMM()
			VPMOVSDB(r, x)
			VMOVDQU(x, m.Offset(16*i))
		}
		return
	}
	// The packs work inside 128-bit halves; order undoes that.
	a, b := YMM(), YMM()
	VPACKSSDW(in[1], in[0], a)
	VPACKSSDW(in[3], in[2], b)
	VPACKSSWB(b, a, a)
	VPERMD(a, p.order, a)
	VMOVDQU(a, m)
}

// arguments loads what every kernel but absmax gets: dst, src, n.
func arguments() (dst, src, n reg.GPVirtual) {
	return Load(Param("dst"), GP64()).(reg.GPVirtual),
		Load(Param("src"), GP64()).(reg.GPVirtual),
		Load(Param("n"), GP64()).(reg.GPVirtual)
}
