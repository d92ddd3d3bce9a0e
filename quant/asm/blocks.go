package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// format is one of ggml's types of 32 values with 4 or 5 bits each: F16 d (and
// minimum), a fifth bit each, low bits.
type format struct {
	name   string
	steps  uint32 // the largest q
	ranged bool   // q counts from the minimum, which is stored too
}

var formats = []format{
	{"q4_0", 15, false},
	{"q4_1", 15, true},
	{"q5_0", 31, false},
	{"q5_1", 31, true},
}

// head is the bytes of d and the minimum.
func (f format) head() int {
	if f.ranged {
		return 4
	}
	return 2
}

// low is where a block's low bits begin.
func (f format) low() int {
	if f.steps > 15 {
		return f.head() + 4
	}
	return f.head()
}

func (f format) bytes() int { return f.low() + blockSize/2 }

// blocksKernel encodes blocks, a tile (tileBlocks) at a time, and stops before the
// first tile that is for the portable kernel: it has a value that is not
// finite, or a minimum of 0, whose sign depends on the order of the values,
// beside a negative value. It returns the number of blocks it encoded.
func blocksKernel(v isa, f format, from element) {
	name := f.name + from.name + v.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int) int")
	Pragma("noescape")
	Doc(name + " encodes up to n blocks of 32 " + from.name + " and returns how many.")
	dst, src, n := arguments()
	t := tile{base: GP64()}
	LEAQ(AllocLocal(3*4*tileBlocks), t.base)
	at, group, left := tile{GP64()}, GP64(), GP64()

	Label("tile")
	CMPQ(n, U8(tileBlocks))
	JB(LabelRef("done"))
	MOVQ(t.base, at.base)
	MOVQ(src, group)
	MOVQ(U32(tileBlocks/groupBlocks), left)
	if f.ranged {
		at.computeRanged(f, from, group, left)
	} else {
		at.computeSigned(f, from, group, left)
	}
	SUBQ(U8(tileBlocks), n)
	MOVQ(U32(tileBlocks), left)
	MOVQ(t.base, at.base)
	e := newEncoder(v, f, from) // here, since the loop above needs all registers
	Label("encode")
	e.encode(at, src, dst)
	ADDQ(U8(4), at.base)
	ADDQ(U8(blockSize*from.bytes), src)
	ADDQ(U8(f.bytes()), dst)
	DECQ(left)
	JNZ(LabelRef("encode"))
	JMP(LabelRef("tile"))

	Label("done")
	all := Load(Param("n"), GP64())
	SUBQ(n, all)
	Store(all, ReturnIndex(0))
	VZEROUPPER()
	RET()
	if f.ranged {
		Label("zeros")
		jumpIfNegative(from, group, "done")
		JMP(LabelRef("sound"))
	}
}

// encoder turns blocks into d, minimum and q.
type encoder struct {
	block
	format     format
	steps, low reg.VecVirtual // in each byte: the largest q, 15
	middle     reg.VecVirtual // what is added before q is cut off
	magnitude  reg.VecVirtual // clears the source's signs
}

func newEncoder(v isa, f format, from element) encoder {
	e := encoder{format: f, block: v.newBlock(from), steps: YMM(), low: YMM()}
	VPBROADCASTB(constant(f.steps), e.steps)
	VPBROADCASTB(constant(15), e.low)
	if f.ranged {
		e.middle = v.all(math.Float32bits(0.5))
		return e
	}
	e.middle = v.all(math.Float32bits(float32(f.steps+1)/2 + 0.5))
	e.magnitude = v.all(magnitude(from))
	return e
}

// encode writes the block at src.
func (e encoder) encode(t tile, src, dst reg.GPVirtual) {
	at, out := Mem{Base: src}, Mem{Base: dst}
	head, factor := GP32(), e.vec()
	if e.format.ranged {
		MOVL(t.head(), head)
		MOVL(head, out)
		VBROADCASTSS(t.inverse(), factor)
	} else {
		negative, inverse := e.firstIsNegative(at, t.other()), GP32()
		MOVL(negative, inverse)
		SHLL(U8(31), inverse)
		XORL(t.inverse(), inverse)
		SHLL(U8(15), negative)
		MOVL(t.head(), head)
		XORL(negative, head)
		MOVW(head.As16(), out)
		if e.isa == avx512 {
			VPBROADCASTD(inverse, factor)
		} else {
			VMOVD(inverse, factor.AsX())
			VPBROADCASTD(factor.AsX(), factor)
		}
	}
	x := e.load(at)
	var least reg.VecVirtual
	if e.format.ranged {
		least = e.vec()
		VBROADCASTSS(t.other(), least)
	}
	for _, x := range x {
		if e.format.ranged {
			VSUBPS(least, x, x)
		}
		VMULPS(factor, x, x)
		VADDPS(e.middle, x, x)
		VCVTTPS2DQ(x, x)
	}
	q, upper := e.pack(x), XMM()
	if !e.format.ranged {
		VPMINSB(e.steps, q, q)
	}
	if e.format.steps > 15 {
		fifth, bits := YMM(), GP32()
		VPSLLW(U8(3), q, fifth)
		VPMOVMSKB(fifth, bits)
		MOVL(bits, out.Offset(e.format.head()))
	}
	VPAND(e.low, q, q)
	VEXTRACTI128(U8(1), q, upper)
	VPSLLW(U8(4), upper, upper)
	VPOR(upper, q.AsX(), upper)
	VMOVDQU(upper, out.Offset(e.format.low()))
}
