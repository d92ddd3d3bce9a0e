package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
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

// fifth reports whether q have a fifth bit.
func (f format) fifth() bool { return f.steps > 15 }

// low is where a block's low bits begin.
func (f format) low() int {
	if f.fifth() {
		return f.head() + 4
	}
	return f.head()
}

func (f format) bytes() int { return f.low() + blockSize/2 }

// blocksKernel encodes blocks, a tile (tileBlocks) at a time, and stops before
// the first tile that is for the portable kernel: it has a value that is not
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
