package model

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Scales returns what the tensor's codes are multiplied by, row-major, and its
// shape, rows × groups of columns. A tensor whose scheme has no scales, or has
// them inside its blocks as ggml's, is of class not_found.
func (t *Tensor) Scales() ([]float32, []int64, error) {
	b, p, err := t.role(quant.Scales, "scales")
	if err != nil {
		return nil, nil, err
	}
	global := float32(1)
	if g, _, err := t.role(quant.GlobalScale, "global scale"); err == nil && len(g) > 0 {
		global = math.Float32frombits(binary.LittleEndian.Uint32(g))
	}
	out := make([]float32, len(b)/p.DType.Size())
	for i := range out {
		switch p.DType {
		case dtype.F32:
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		case dtype.F8E4M3:
			out[i] = dtype.F8E4M3ToF32(b[i]) / global
		default:
			return nil, nil, recovery.Errorf(recovery.Internal, "model: tensor %q has scales of %s", t.plan.Name, p.DType)
		}
	}
	return out, planeShape(t.plan, p), nil
}

// ZeroPoints returns the codes that stand for zero, as numbers that a code is
// less by, row-major, and their shape, which is that of the scales: a value is
// (code - zero point) × scale. A tensor that has none, since its scheme is
// symmetric, is of class not_found.
func (t *Tensor) ZeroPoints() ([]int, []int64, error) {
	b, p, err := t.role(quant.ZeroPoints, "zero points")
	if err != nil {
		return nil, nil, err
	}
	_, scales, err := t.role(quant.Scales, "scales")
	if err != nil {
		return nil, nil, err
	}
	shape := planeShape(t.plan, scales)
	rows, groups := int(shape[0]), int(shape[1])
	perByte := 1 // zero points of 4 bits share one
	if scales.Cols > 0 {
		perByte = int(p.Cols / scales.Cols)
	}
	bits, perRow := 8/perByte, (groups+perByte-1)/perByte
	out := make([]int, 0, rows*groups)
	for r := range rows {
		for g := range groups {
			v := b[r*perRow+g/perByte] >> (g % perByte * bits)
			if p.DType == dtype.I8 {
				out = append(out, int(int8(v)))
			} else {
				out = append(out, int(v&(1<<bits-1)))
			}
		}
	}
	return out, shape, nil
}

// role returns the plane that has a role.
func (t *Tensor) role(r quant.Role, what string) ([]byte, quant.Plane, error) {
	for i, p := range t.plan.Layout.Planes {
		if p.Role != r {
			continue
		}
		all, err := t.rows(shard.Span{Stop: t.plan.Rows})
		if err != nil {
			return nil, p, err
		}
		return all[i], p, nil
	}
	return nil, quant.Plane{}, &recovery.Error{Class: recovery.NotFound, Op: "find " + what, Tensor: t.plan.Name,
		Err: fmt.Errorf("%s keeps none beside its values", t.plan.Scheme)}
}
