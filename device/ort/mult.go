package ort

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// expandBytes bounds the F32 copy that ONNX Runtime makes of a weight of
// another type while it multiplies.
const expandBytes = 8 << 20

// MulT returns y = x·Wᵀ, m × W's rows, for x of m × W's columns, both
// row-major. W's bytes are used where they lie. F32 takes no memory besides y;
// the other types are brought to F32, or packed, in parts of at most 8 MiB of
// F32 (or one row). Values in between are F32; the order of sums is ONNX
// Runtime's.
func (r *Runtime) MulT(x []float32, m int, w Matrix) ([]float32, error) {
	if err := w.validate(); err != nil {
		return nil, err
	}
	rows, cols := w.size()
	if m <= 0 || m > maxElements/cols || len(x) != m*cols || m > maxElements/rows {
		return nil, recovery.Errorf(recovery.Usage, "ort: x of %d values is not %d×%d", len(x), m, cols)
	}
	part := rows
	if plain, ok := w.(Weight); !ok || plain.Type != dtype.F32 {
		part = min(part, max(1, expandBytes/4/cols))
		defer trim()
	}
	if part == rows {
		return r.mulPart(x, m, w)
	}
	y := make([]float32, m*rows)
	for start := 0; start < rows; start += part {
		stop := min(start+part, rows)
		p, err := r.mulPart(x, m, w.slice(start, stop))
		if err != nil {
			return nil, err
		}
		for i := range m {
			copy(y[i*rows+start:i*rows+stop], p[i*(stop-start):])
		}
	}
	return y, nil
}

// mulPart is MulT in one session.
func (r *Runtime) mulPart(x []float32, m int, w Matrix) (y []float32, err error) {
	s, err := r.NewSession(w.graph(m).session())
	if err != nil {
		return nil, fmt.Errorf("ort: x·Wᵀ with W of %s: %w", w, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.mul(x, m, w)
}

// mul runs a session of w.graph(m).
func (s *Session) mul(x []float32, m int, w Matrix) ([]float32, error) {
	rows, cols := w.size()
	out, err := s.Run(context.Background(), []Tensor{{Name: "X", Type: dtype.F32, Shape: []int64{int64(m), int64(cols)}, Data: bytesOf(x)}})
	if err != nil {
		return nil, fmt.Errorf("ort: x·Wᵀ with W of %s: %w", w, err)
	}
	y := make([]float32, m*rows)
	copy(bytesOf(y), out[0].Data)
	return y, nil
}

// bytesOf sees float32 values as their little-endian bytes.
func bytesOf(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
