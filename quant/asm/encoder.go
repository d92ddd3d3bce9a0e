package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// encoder turns blocks into d, minimum and q.
type encoder struct {
	block
	format format
	one    reg.VecVirtual // of a ranged format
	middle reg.VecVirtual // what is added before q is cut off
	low    reg.VecVirtual // 15 in each byte, or where the first of two q is
	steps  reg.VecVirtual // AVX2: the largest q, in each byte
	cut    []cut          // AVX-512
}

// cut turns F32 q into integers by adding a power of two, so large that a
// fraction is cut off below bit shift, where q begins.
type cut struct {
	power reg.VecVirtual
	most  reg.VecVirtual // of a signed format: the bits of the largest q
}

func (v isa) newCut(shift int, f format) cut {
	power := math.Float32bits(float32(int(1) << (23 - shift)))
	c := cut{power: v.all(power)}
	if !f.ranged {
		c.most = v.all(power | (f.steps+1)<<shift - 1)
	}
	return c
}

func (c cut) off(x reg.VecVirtual) {
	VADDPS_RZ_SAE(c.power, x, x)
	if c.most != nil {
		VPMINUD(c.most, x, x)
	}
}

func newEncoder(v isa, f format, from element) encoder {
	e := encoder{block: v.newBlock(from), format: f}
	if f.ranged {
		e.middle, e.one = v.all(math.Float32bits(0.5)), v.all(math.Float32bits(1))
	} else {
		e.middle = v.all(math.Float32bits(float32(f.steps+1)/2 + 0.5))
	}
	switch {
	case v == avx2:
		e.low, e.steps = avx2.all(0x0f0f0f0f), avx2.all(f.steps*0x01010101)
	case from == bf16:
		e.cut, e.low = []cut{v.newCut(0, f), v.newCut(16, f)}, v.all(0xffff)
	default:
		e.cut, e.low = []cut{v.newCut(0, f), v.newCut(4, f)}, v.all(15)
	}
	return e
}

// width is the number of blocks that encode takes: as many as there are
// registers for. Each step is done for all of them before the next one, so that
// few wait for the one before.
func (e encoder) width() int {
	if e.isa == avx512 {
		return 4
	}
	return 1
}

// encode writes width blocks of a group, from block i on.
func (e encoder) encode(t needs, i int, src, dst reg.GPVirtual) {
	blocks := make([]blockInWork, e.width())
	for k := range blocks {
		b := &blocks[k]
		b.Mem = Mem{Base: dst, Disp: (i + k) * e.format.bytes()}
		b.x = e.load(Mem{Base: src, Disp: (i + k) * blockSize * e.from.bytes})
		e.head(t, i+k, b.Mem)
		b.inverse = e.spread(t.inverse(i + k))
		if e.format.ranged {
			b.least = e.spread(t.least(i + k))
		}
	}
	each := func(step func(b *blockInWork, i int)) {
		for k := range blocks {
			for i := range blocks[k].x {
				step(&blocks[k], i)
			}
		}
	}
	if e.format.ranged {
		each(func(b *blockInWork, i int) { e.subtract(b.least, b.x[i]) })
	}
	each(func(b *blockInWork, i int) { e.multiply(b.inverse, b.x[i]) })
	each(func(b *blockInWork, i int) { VADDPS(e.middle, b.x[i], b.x[i]) })
	each(func(b *blockInWork, i int) {
		if e.cut == nil {
			VCVTTPS2DQ(b.x[i], b.x[i])
		} else {
			e.cut[i].off(b.x[i])
		}
	})
	for _, b := range blocks {
		e.finish(b)
	}
}

// head writes d and the minimum.
func (e encoder) head(t needs, i int, dst Mem) {
	head := GP32()
	if e.format.ranged {
		MOVL(t.head(e.format, i), head)
		MOVL(head, dst)
	} else {
		MOVWLZX(t.head(e.format, i), head)
		MOVW(head.As16(), dst)
	}
}

// blockInWork is where a block goes and what becomes of its values.
type blockInWork struct {
	Mem
	x              []reg.VecVirtual
	inverse, least Op
}

// spread returns the F32 at m in each lane: as an operand in memory where
// there is one, since a broadcast to a register of 512 bits takes an
// arithmetic unit too.
func (e encoder) spread(m Mem) Op {
	if e.isa == avx512 {
		return m
	}
	x := YMM()
	VBROADCASTSS(m, x)
	return x
}

// subtract takes y from x, in the units that multiply.
func (e encoder) subtract(y Op, x reg.VecVirtual) {
	if e.isa == avx512 {
		VFNMADD231PS_BCST(y, e.one, x)
		return
	}
	VFNMADD231PS(y, e.one, x)
}

func (e encoder) multiply(y Op, x reg.VecVirtual) {
	if e.isa == avx512 {
		VMULPS_BCST(y, x, x)
		return
	}
	VMULPS(y, x, x)
}

// finish writes a block's q.
func (e encoder) finish(b blockInWork) {
	x, dst := b.x, b.Mem
	switch {
	case e.isa == avx2:
		q := e.pack(x)
		if !e.format.ranged {
			VPMINSB(e.steps, q, q)
		}
		e.join(q, dst)
	case e.from == bf16:
		q := YMM()
		e.choose(x)
		VPMOVWB(x[0], q)
		e.join(q, dst)
	default:
		e.joinWide(x, dst)
	}
}

// choose leaves in x[0] its own bits where low has any and x[1]'s elsewhere.
func (e encoder) choose(x []reg.VecVirtual) {
	const ifThenElse = 0xe4
	VPTERNLOGD(U8(ifThenElse), e.low, x[1], x[0])
}

// join writes the bits of 32 q, a byte each.
func (e encoder) join(q reg.VecVirtual, out Mem) {
	low, upper := e.low, XMM()
	if e.isa == avx512 {
		low = avx2.all(0x0f0f0f0f)
	}
	if e.format.fifth() {
		fifth, bits := YMM(), GP32()
		VPSLLW(U8(3), q, fifth)
		VPMOVMSKB(fifth, bits)
		MOVL(bits, out.Offset(e.format.head()))
	}
	VPAND(low, q, q)
	VEXTRACTI128(U8(1), q, upper)
	VPSLLW(U8(4), upper, upper)
	VPOR(upper, q.AsX(), upper)
	VMOVDQU(upper, out.Offset(e.format.low()))
}

// joinWide is join for q of 32 bits, the second 16 of which begin at bit 4.
func (e encoder) joinWide(x []reg.VecVirtual, out Mem) {
	if e.format.fifth() {
		lower, upper, bits := K(), K(), GP32()
		VPTESTMD(e.all(1<<4), x[0], lower)
		VPTESTMD(e.all(1<<8), x[1], upper)
		KUNPCKWD(lower, upper, lower)
		KMOVD(lower, bits)
		MOVL(bits, out.Offset(e.format.head()))
	}
	q := XMM()
	e.choose(x)
	VPMOVDB(x[0], q)
	VMOVDQU(q, out.Offset(e.format.low()))
}
