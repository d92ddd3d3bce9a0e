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

// blocksKernel encodes blocks, tileGroups groups of 8 at a time: it looks for
// what all of them need, and then encodes them. Reading that much in one go is
// what the prefetcher of the CPU follows best. It stops before the first group
// with a block that is for the portable kernel (scan.rarely), and returns the
// number of blocks it encoded.
func blocksKernel(v isa, f format, from element) {
	name := f.name + from.name + v.name
	TEXT(name, NOSPLIT, "func(dst, src *byte, n int) int")
	Pragma("noescape")
	Doc(name + " encodes up to n blocks of 32 " + from.name + " and returns how many.")
	dst, src, n := arguments()
	group := groupBlocks * blockSize * from.bytes // bytes
	tile, encoded, end, next, stop := newTile(tileGroups), GP64(), GP64(), GP64(), GP64()
	scanned, ready := needs{GP64()}, needs{GP64()}
	s := scan{format: f, from: from, needs: scanned, src: next}
	XORQ(encoded, encoded)
	SHRQ(U8(3), n)
	IMUL3Q(U32(group), n, end)
	ADDQ(src, end)
	MOVQ(src, next)

	Label("tile")
	MOVQ(tile, scanned.base)
	LEAQ(Mem{Base: src, Disp: tileGroups * group}, stop)
	CMPQ(stop, end)
	CMOVQHI(end, stop)
	Label("scan")
	CMPQ(next, stop)
	JE(LabelRef("ready"))
	s.usual()
	Label("scanned")
	ADDQ(U32(group), next)
	ADDQ(U8(needsBytes), scanned.base)
	JMP(LabelRef("scan"))

	Label("ready")
	CMPQ(src, next)
	JE(LabelRef("done"))
	MOVQ(tile, ready.base)
	e := newEncoder(v, f, from) // here, since the scan needs the registers
	Label("encode")
	for i := 0; i < groupBlocks; i += e.width() {
		block := blockSize * from.bytes
		fetch(Mem{Base: src, Disp: group + i*block}, e.width()*block) // a group further: the scan is ahead
		e.encode(ready, i, src, dst)
	}
	ADDQ(U32(group), src)
	ADDQ(U32(groupBlocks*f.bytes()), dst)
	ADDQ(U8(needsBytes), ready.base)
	ADDQ(U8(groupBlocks), encoded)
	CMPQ(src, next)
	JNE(LabelRef("encode"))
	CMPQ(src, end)
	JNE(LabelRef("tile"))

	Label("done")
	Store(encoded, ReturnIndex(0))
	VZEROUPPER()
	RET()

	Label("rare")
	s.rarely()
	JMP(LabelRef("scanned"))
	Label("portable")
	MOVQ(next, end)
	JMP(LabelRef("ready"))
}
