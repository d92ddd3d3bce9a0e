package ort

import (
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// Matrix is W of x·Wᵀ: a Weight or an NBits.
type Matrix interface {
	fmt.Stringer
	// size returns W's rows and columns.
	size() (rows, cols int)
	validate() error
	// slice returns rows [start, stop), over the same memory.
	slice(start, stop int) Matrix
	// graph is x·Wᵀ for m rows of x.
	graph(m int) *model
}

// Weight is a matrix as it lies in an arena: Rows×Cols, row-major,
// little-endian. Its memory is never written and never copied.
type Weight struct {
	// Type is F32, F16 or BF16; or with scales I8, U8, U4, F8E4M3 or F8E5M2.
	Type       dtype.Type
	Data       []byte // Rows × Cols elements; of U4 the first has the low bits, and rows are whole bytes
	Rows, Cols int
	// Scales: one for each Block columns of a row, or for the row where Block
	// is 0. The value is (element - zero) × scale.
	Scales    []byte
	ScaleType dtype.Type // F32, F16 or BF16
	Block     int
	// Zeros, for U8 and U4, are the elements that stand for zero, one byte for
	// each scale; nil is 128 or 8 for all.
	Zeros []byte
}

func (w Weight) size() (rows, cols int) { return w.Rows, w.Cols }

func (w Weight) slice(start, stop int) Matrix { return w.Slice(start, stop) }

// Slice returns rows [start, stop) of w, over the same memory.
func (w Weight) Slice(start, stop int) Weight {
	w.Data = part(w.Data, w.Rows, start, stop)
	w.Scales = part(w.Scales, w.Rows, start, stop)
	w.Zeros = part(w.Zeros, w.Rows, start, stop)
	w.Rows = stop - start
	return w
}

// part returns rows [start, stop) of all rows of a matrix.
func part(b []byte, rows, start, stop int) []byte {
	row := len(b) / rows
	return b[start*row : stop*row]
}

// groups is how many scales a row has.
func (w Weight) groups() int {
	if w.Block == 0 {
		return 1
	}
	return (w.Cols + w.Block - 1) / w.Block
}

// maxElements keeps every byte count here far from an int's end.
const maxElements = 1 << 40

// checkSize refuses matrices that are empty or too large to count.
func checkSize(rows, cols int) error {
	if rows <= 0 || cols <= 0 || rows > maxElements/cols {
		return recovery.Errorf(recovery.Usage, "ort: weight of %d×%d", rows, cols)
	}
	return nil
}

// checkBytes refuses memory of another size than it must have.
func checkBytes(what string, b []byte, want int) error {
	if len(b) != want {
		return recovery.Errorf(recovery.Usage, "ort: %d bytes of %s, want %d", len(b), what, want)
	}
	return nil
}

func (w Weight) validate() error {
	if err := checkSize(w.Rows, w.Cols); err != nil {
		return err
	}
	elements, bytes := w.Type.Block()
	scaled := false
	switch w.Type {
	case dtype.F32, dtype.F16, dtype.BF16:
	case dtype.I8, dtype.U8, dtype.U4, dtype.F8E4M3, dtype.F8E5M2:
		scaled = true
	default:
		return recovery.Errorf(recovery.Unsupported, "ort: no operator for a weight of %s", w.Type)
	}
	if w.Cols%int(elements) != 0 {
		return recovery.Errorf(recovery.Usage, "ort: rows of %d %s end inside a byte", w.Cols, w.Type)
	}
	if err := checkBytes(fmt.Sprintf("%d×%d %s", w.Rows, w.Cols, w.Type), w.Data, w.Rows*w.Cols/int(elements)*int(bytes)); err != nil {
		return err
	}
	if !scaled {
		return checkBytes("scales of floats", w.Scales, 0)
	}
	switch w.ScaleType {
	case dtype.F32, dtype.F16, dtype.BF16:
	default:
		return recovery.Errorf(recovery.Unsupported, "ort: no operator for scales of %s", w.ScaleType)
	}
	if w.Block < 0 {
		return recovery.Errorf(recovery.Usage, "ort: blocks of %d columns", w.Block)
	}
	if err := checkBytes("scales", w.Scales, w.Rows*w.groups()*w.ScaleType.Size()); err != nil {
		return err
	}
	unsigned := w.Type == dtype.U8 || w.Type == dtype.U4
	if w.Zeros == nil {
		return nil
	}
	if !unsigned {
		return checkBytes("zeros of signed elements", w.Zeros, 0)
	}
	return checkBytes("zeros", w.Zeros, w.Rows*w.groups())
}

// graph has the initializers that stand for w's memory, and the nodes that
// bring W to F32 where it is something else.
func (w Weight) graph(m int) *model {
	g := product(m, w.Rows, w.Cols)
	g.external = []external{{value{"W", w.Type, []int64{int64(w.Rows), int64(w.Cols)}}, w.Data}}
	matrix := "W"
	switch {
	case w.Type == dtype.F16 || w.Type == dtype.BF16:
		matrix = g.cast("W")
	case w.Type != dtype.F32:
		matrix = "W.f32"
		w.dequantize(g, matrix)
	}
	g.add("Gemm", []string{"X", matrix}, "Y", attribute{"transB", 1})
	return g
}

// dequantize adds the node that makes out of W.
func (w Weight) dequantize(g *model, out string) {
	shape := []int64{int64(w.Rows)}
	attributes := []attribute{{"axis", 0}}
	if w.groups() > 1 {
		shape = append(shape, int64(w.groups()))
		attributes = []attribute{{"axis", 1}, {"block_size", int64(w.Block)}}
	}
	g.external = append(g.external, external{value{"S", w.ScaleType, shape}, w.Scales})
	inputs := []string{"W", "S"}
	if w.ScaleType != dtype.F32 {
		inputs[1] = g.cast("S")
	}
	if w.Type == dtype.U8 || w.Type == dtype.U4 {
		g.external = append(g.external, external{value{"Z", w.Type, shape}, w.zeros()})
		inputs = append(inputs, "Z")
	}
	g.add("DequantizeLinear", inputs, out, attributes...)
}

// zeros returns the zero points as the operator takes them: elements of W's
// type, side by side.
func (w Weight) zeros() []byte {
	n := w.Rows * w.groups()
	at := func(i int) byte {
		switch {
		case i < len(w.Zeros):
			return w.Zeros[i]
		case i >= n:
			return 0
		case w.Type == dtype.U4:
			return 8
		}
		return 128
	}
	if w.Type == dtype.U4 {
		out := make([]byte, (n+1)/2)
		for i := range out {
			out[i] = at(2*i)&15 | at(2*i+1)<<4
		}
		return out
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = at(i)
	}
	return out
}

// product is a graph with x of m×cols and y of m×rows.
func product(m, rows, cols int) *model {
	return &model{
		inputs:  []value{{"X", dtype.F32, []int64{int64(m), int64(cols)}}},
		outputs: []value{{"Y", dtype.F32, []int64{int64(m), int64(rows)}}},
	}
}

// String describes w for messages.
func (w Weight) String() string { return fmt.Sprintf("%d×%d %s", w.Rows, w.Cols, w.Type) }
