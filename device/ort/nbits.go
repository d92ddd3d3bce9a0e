package ort

import (
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// NBits is a matrix in the layout of ONNX Runtime's MatMulNBits
// (docs/ContribOperators.md), as it lies in an arena. Its memory is never
// written; on the CPU the session packs a copy of it.
type NBits struct {
	Bits       int // 4 or 8
	Block      int // columns that share a scale: a power of two from 16 on
	Rows, Cols int
	Data       []byte // U8 [Rows, blocks, Block × Bits / 8]
	Scales     []byte // F32 [Rows, blocks]
	Zeros      []byte // U8 [Rows, ⌈blocks × Bits / 8⌉]; nil: 2^(Bits-1)
}

func (w NBits) size() (rows, cols int) { return w.Rows, w.Cols }

func (w NBits) slice(start, stop int) Matrix {
	w.Data = part(w.Data, w.Rows, start, stop)
	w.Scales = part(w.Scales, w.Rows, start, stop)
	w.Zeros = part(w.Zeros, w.Rows, start, stop)
	w.Rows = stop - start
	return w
}

// blocks is how many a row has, the last one perhaps filled up.
func (w NBits) blocks() int { return (w.Cols + w.Block - 1) / w.Block }

func (w NBits) validate() error {
	if err := checkSize(w.Rows, w.Cols); err != nil {
		return err
	}
	if w.Bits != 4 && w.Bits != 8 || w.Block < 16 || w.Block > maxElements || w.Block&(w.Block-1) != 0 {
		return recovery.Errorf(recovery.Unsupported, "ort: no operator for blocks of %d columns with %d bits", w.Block, w.Bits)
	}
	if w.Rows > maxElements/w.Block/w.blocks() {
		return recovery.Errorf(recovery.Usage, "ort: weight of %s", w)
	}
	if err := checkBytes("blocks", w.Data, w.Rows*w.blocks()*w.Block*w.Bits/8); err != nil {
		return err
	}
	if err := checkBytes("scales", w.Scales, w.Rows*w.blocks()*4); err != nil {
		return err
	}
	if w.Zeros == nil {
		return nil
	}
	return checkBytes("zeros", w.Zeros, w.Rows*w.zeroBytes())
}

func (w NBits) zeroBytes() int { return (w.blocks()*w.Bits + 7) / 8 }

// accuracyF32 is MatMulNBits' accuracy_level for sums in F32.
const accuracyF32 = 1

func (w NBits) graph(m int) *model {
	g := product(m, w.Rows, w.Cols)
	g.prepack = true
	n, blocks := int64(w.Rows), int64(w.blocks())
	inputs := []string{"X", "B", "S"}
	g.external = []external{
		{value{"B", dtype.U8, []int64{n, blocks, int64(w.Block * w.Bits / 8)}}, w.Data},
		{value{"S", dtype.F32, []int64{n, blocks}}, w.Scales},
	}
	if w.Zeros != nil {
		g.external = append(g.external, external{value{"Z", dtype.U8, []int64{n, int64(w.zeroBytes())}}, w.Zeros})
		inputs = append(inputs, "Z")
	}
	g.nodes = append(g.nodes, node{op: "MatMulNBits", domain: microsoft, inputs: inputs, output: "Y", attributes: []attribute{
		{"K", int64(w.Cols)}, {"N", n}, {"bits", int64(w.Bits)}, {"block_size", int64(w.Block)}, {"accuracy_level", accuracyF32}}})
	return g
}

// String describes w for messages.
func (w NBits) String() string {
	return fmt.Sprintf("%d×%d %d bits in blocks of %d", w.Rows, w.Cols, w.Bits, w.Block)
}
