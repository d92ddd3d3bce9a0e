package loader

import (
	"context"
	"math"
	"unsafe"

	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

const (
	// decodeValues is how many values are decoded at once.
	decodeValues = 64 << 10
	// Of the largest matrix at most so many rows and values are multiplied:
	// enough to reach into the arena, little enough to take milliseconds.
	validateRows   = 4096
	validateValues = 4 << 20
	// decodedRows is how many rows are decoded first where ONNX Runtime has no
	// operator for the scheme; fewer where they would take more than half of
	// the staging budget.
	decodedRows = 32
	// tolerance bounds |y - y'| relative to the largest |y|. Both sums run
	// over the same values; ONNX Runtime's in float32 and an order of its own,
	// which is off by about √cols × 2⁻²⁴: 1e-5 for the widest rows of today.
	// A wrong byte in a weight is off by far more.
	tolerance = 1e-4
)

// validate multiplies a matrix of the rank in ONNX Runtime and compares.
// Where the library is missing, or no matrix fits, it says so in the result.
func (c *checker) validate(ctx context.Context) (Validation, error) {
	lib, err := ort.Open("")
	if err != nil {
		return Validation{Reason: err.Error()}, nil
	}
	v := Validation{Runtime: "onnxruntime " + lib.Version()}
	s := c.largest()
	if s == nil {
		v.Reason = "the rank holds no matrix of numbers"
		return v, nil
	}
	cols := s.Held.Len()
	rows := shard.Span{Stop: max(min(s.Rows.Len(), validateRows, validateValues/cols), 1)}
	v.Tensor, v.Method = c.encoded[s.Tensor].tensor.Name, "wrapped"
	_, wraps := c.noRows(s).wrap()
	if !wraps {
		v.Method = "decoded"
		rows.Stop = min(rows.Stop, decodedRows, max(c.staging.budget/(8*cols)-1, 1))
	}
	if row := c.copiedBytes(s, 1); row > 0 { // a copy of them must fit, with others'
		rows.Stop = min(rows.Stop, max(c.staging.budget/8/row, 1))
	}
	v.Rows = rows.Len()
	x := probe(int(cols))
	// Both sides' working memory is staging: W as float32 where it must be
	// decoded, and one row of it for our own arithmetic.
	need := cols
	if !wraps {
		need += v.Rows * cols
	}
	err = c.eachRows(ctx, s, rows, rows.Len(), need, func(m view, buf []float32) error {
		row := buf[:cols]
		w, _ := m.wrap()
		if !wraps {
			decoded := buf[cols:need]
			m.decode(decoded, rows)
			w = ort.Weight{Type: dtype.F32, Data: bytesOf(decoded), Rows: int(v.Rows), Cols: int(cols)}
		}
		y, err := lib.MulT(x, 1, w)
		if err != nil {
			return err
		}
		v.MaxError = m.compare(x, y, row)
		return nil
	})
	if err != nil {
		return v, err
	}
	if v.Ran = true; !(v.MaxError <= tolerance) {
		return v, c.failed(v.Tensor, "rank %d: x·Wᵀ in %s is off by %.3g of the largest value, more than %g", c.rank.hold.Rank, v.Runtime, v.MaxError, tolerance)
	}
	return v, nil
}

// largest returns the rank's largest matrix of numbers, of those that a scheme
// changed where there are such; nil without one. The weight of a convolution is
// a matrix of its outputs.
func (c *checker) largest() *shard.Slice {
	var best *shard.Slice
	var size int64
	var changed bool
	slices := c.rank.plan.Ranks[c.rank.hold.Rank].Slices
	for i := range slices {
		s := &slices[i]
		t := c.encoded[s.Tensor].tensor
		n, changes := s.Rows.Len()*s.Held.Len(), t.Scheme != "none"
		if len(t.Shape) < 2 || !quant.Decodes(t.From) || n == 0 {
			continue
		}
		if best == nil || changes && !changed || changes == changed && n > size {
			best, size, changed = s, n, changes
		}
	}
	return best
}

// compare multiplies again with sums in float64 and returns the largest
// difference relative to the largest |y|. A row that is not finite on either
// side must not be on both.
func (m view) compare(x, y []float32, row []float32) float64 {
	var most, off float64
	for i := range m.rows.Len() {
		at := m.rows.Start + i
		m.decode(row, shard.Span{Start: at, Stop: at + 1})
		var sum float64
		for k, w := range row {
			sum += float64(x[k]) * float64(w)
		}
		got := float64(y[i])
		if !finite(sum) || !finite(got) {
			if finite(sum) != finite(got) {
				return math.Inf(1)
			}
			continue
		}
		most, off = max(most, math.Abs(sum)), max(off, math.Abs(sum-got))
	}
	if off == 0 {
		return 0
	}
	return off / most
}

func finite(v float64) bool { return v-v == 0 }

// probe returns n values in [-1, 1) that are the same on every machine and
// have no order that a mistake in one could hide behind.
func probe(n int) []float32 {
	x := make([]float32, n)
	state := uint32(0x9e3779b9)
	for i := range x {
		state ^= state << 13 // xorshift32, Marsaglia 2003
		state ^= state >> 17
		state ^= state << 5
		x[i] = float32(int32(state)>>8) / (1 << 23)
	}
	return x
}

// floats sees the first 4n bytes of page-aligned memory as float32.
func floats(b []byte, n int64) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// bytesOf sees float32 values as their little-endian bytes.
func bytesOf(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
