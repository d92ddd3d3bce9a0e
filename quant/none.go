package quant

import "github.com/gantry-ml/gantry/dtype"

// none keeps a tensor's bytes, whatever its element type. A row of a type
// that packs several elements into bytes (F4: 2 in 1, F6: 4 in 3) must be a
// whole number of bytes; a tensor whose rows are not is seen as one row.
type none struct{}

func (none) Name() string { return "none" }

func (none) Target() Target { return Nothing }

func (s none) Layout(from dtype.Type, cols int64) (Layout, error) {
	per, unit := from.Block()
	if per == 0 {
		return Layout{}, checkFloat(s, from)
	}
	if err := checkCols(s, cols, per); err != nil {
		return Layout{}, err
	}
	return Layout{Align: per, Planes: []Plane{{DType: from, Cols: per, Unit: unit}}}, nil
}

func (none) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	n := rowsBytes(from, rows, cols)
	copy(dst[0][:n], src[:n])
}

// rowsBytes returns the bytes of rows × cols packed elements.
func rowsBytes(t dtype.Type, rows, cols int) int {
	per, unit := t.Block()
	if per == 0 {
		return 0
	}
	return rows * cols / int(per) * int(unit)
}

// Decode reads the types that Decodes knows. The others have no agreed reading
// as numbers here (a U8 may hold packed bits), so they decode to NaN, which
// nothing takes for a weight.
func (none) Decode(dst []float32, src [][]byte, from dtype.Type, rows, cols int) {
	Decode(dst[:rows*cols], src[0], from)
}

func (none) Bound(dst []float64, src []float32, rows, cols int) {
	boundRuns(dst, src[:rows*cols], 1, func([]float32) float64 { return 0 })
}
