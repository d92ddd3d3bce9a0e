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

func (v isa) load(m Mem, dst reg.VecVirtual)  { v.move(m, dst) }
func (v isa) store(src reg.VecVirtual, m Mem) { v.move(src, m) }

func (v isa) move(from, to Op) {
	if v == avx512 {
		VMOVDQU32(from, to)
		return
	}
	VMOVDQU(from, to)
}

func (v isa) copy(from, to reg.VecVirtual) {
	if v == avx512 {
		VMOVDQA32(from, to)
		return
	}
	VMOVDQA(from, to)
}

func (v isa) and(a, b, dst Op) {
	if v == avx512 {
		VPANDD(a, b, dst)
		return
	}
	VPAND(a, b, dst)
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

// constants32 returns the address of read-only 32-bit values; the same name
// shares it.
func constants32(name string, values ...uint32) Mem {
	m, ok := arrays[name]
	if !ok {
		m = GLOBL(name, attr.RODATA|attr.NOPTR)
		for i, value := range values {
			DATA(4*i, U32(value))
		}
		arrays[name] = m
	}
	return m
}

var arrays = map[string]Mem{}

// all returns a vector with bits in each of its 32-bit lanes.
func (v isa) all(bits uint32) reg.VecVirtual {
	r := v.vec()
	VPBROADCASTD(constant(bits), r)
	return r
}

// ahead is how far before it is read memory is asked for: the next page, across
// whose boundary the CPU's own prefetchers do not look.
const ahead = 4 << 10

// fetch asks for as many bytes as are read at src now, further on. A prefetch
// beyond the source cannot fault.
func fetch(src Mem, bytes int) {
	for i := 0; i < bytes; i += 64 {
		PREFETCHT1(src.Offset(ahead + i))
	}
}

// arguments loads what every kernel but absmax gets: dst, src, n.
func arguments() (dst, src, n reg.GPVirtual) {
	return Load(Param("dst"), GP64()).(reg.GPVirtual),
		Load(Param("src"), GP64()).(reg.GPVirtual),
		Load(Param("n"), GP64()).(reg.GPVirtual)
}
