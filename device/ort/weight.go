package ort

import (
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// Weight is a matrix as it lies in an arena: Rows×Cols, row-major,
// little-endian. Its memory is never written and never copied.
type Weight struct {
	Type       dtype.Type // F32, F16, BF16 or I8
	Data       []byte     // Rows × Cols elements
	Rows, Cols int
	// Scales, for I8 only: one per row. The value is element × scale.
	Scales    []byte
	ScaleType dtype.Type // F32, F16 or BF16
}

// Slice returns rows [start, stop) of w, over the same memory.
func (w Weight) Slice(start, stop int) Weight {
	row := w.Cols * w.Type.Size()
	w.Data = w.Data[start*row : stop*row]
	if len(w.Scales) > 0 {
		s := w.ScaleType.Size()
		w.Scales = w.Scales[start*s : stop*s]
	}
	w.Rows = stop - start
	return w
}

// maxElements keeps every byte count here far from an int's end.
const maxElements = 1 << 40

func (w Weight) validate() error {
	if w.Rows <= 0 || w.Cols <= 0 || w.Rows > maxElements/w.Cols {
		return recovery.Errorf(recovery.Usage, "ort: weight of %d×%d", w.Rows, w.Cols)
	}
	switch w.Type {
	case dtype.F32, dtype.F16, dtype.BF16:
		if len(w.Scales) != 0 {
			return recovery.Errorf(recovery.Usage, "ort: %s weight with scales", w.Type)
		}
	case dtype.I8:
		switch w.ScaleType {
		case dtype.F32, dtype.F16, dtype.BF16:
		default:
			return recovery.Errorf(recovery.Unsupported, "ort: no operator for scales of %s", w.ScaleType)
		}
		if want := w.Rows * w.ScaleType.Size(); len(w.Scales) != want {
			return recovery.Errorf(recovery.Usage, "ort: %d bytes of scales for %d rows of %s, want %d", len(w.Scales), w.Rows, w.ScaleType, want)
		}
	default:
		return recovery.Errorf(recovery.Unsupported, "ort: no operator for a weight of %s", w.Type)
	}
	if want := w.Rows * w.Cols * w.Type.Size(); len(w.Data) != want {
		return recovery.Errorf(recovery.Usage, "ort: weight of %d bytes, want %d for %d×%d of %s", len(w.Data), want, w.Rows, w.Cols, w.Type)
	}
	return nil
}

// graph is x·Wᵀ: the initializers that stand for w's memory, and the nodes
// that bring W to F32 where it is something else.
func (w Weight) graph(m int) *model {
	g := &model{
		inputs:  []value{{"X", dtype.F32, []int64{int64(m), int64(w.Cols)}}},
		outputs: []value{{"Y", dtype.F32, []int64{int64(m), int64(w.Rows)}}},
		external: []external{
			{value{"W", w.Type, []int64{int64(w.Rows), int64(w.Cols)}}, w.Data},
		},
	}
	matrix := "W"
	switch w.Type {
	case dtype.F16, dtype.BF16:
		matrix = g.cast("W")
	case dtype.I8:
		g.external = append(g.external, external{value{"S", w.ScaleType, []int64{int64(w.Rows)}}, w.Scales})
		scales := "S"
		if w.ScaleType != dtype.F32 {
			scales = g.cast("S")
		}
		matrix = "W.f32"
		g.add("DequantizeLinear", []string{"W", scales}, matrix, attribute{"axis", 0})
	}
	g.add("Gemm", []string{"X", matrix}, "Y", attribute{"transB", 1})
	return g
}

// String describes w for messages.
func (w Weight) String() string { return fmt.Sprintf("%d×%d %s", w.Rows, w.Cols, w.Type) }
