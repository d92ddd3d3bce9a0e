package model_test

import (
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// Scales and zero points say what codes stand for, whatever holds them.
func TestScalesAndZeroPoints(t *testing.T) {
	const name = "model.layers.0.mlp.down_proj.weight"
	dir := small(t) // rows of 384
	for _, c := range []struct {
		scheme string
		groups int64 // 0: no scales
		zeros  bool
	}{
		{"none", 0, false}, {"q8_0", 0, false}, {"int8", 1, false}, {"int4", 3, false}, {"fp8_e4m3", 1, false}, {"nf4", 6, false}, {"nvfp4", 24, false}, {"fp8_e4m3:scale=tensor", 1, false},
		{"binary", 3, false}, {"ort_nbits4", 12, false}, {"ort_nbits8:block=128,symmetric=false", 3, true},
		{"ort_nbits4:block=128,symmetric=false", 3, true}, {"custom:bits=3,symmetric=false,group=64", 6, true},
	} {
		for _, tp := range []int{1, 2} {
			x, err := load(t, dir, c.scheme, tp).Vars().Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			scales, shape, err := x.Scales()
			if c.groups == 0 {
				if recovery.ClassOf(err) != recovery.NotFound {
					t.Errorf("%s: scales %v, %v", c.scheme, scales, err)
				}
				continue
			}
			if err != nil || !slices.Equal(shape, []int64{256, c.groups}) || int64(len(scales)) != 256*c.groups {
				t.Fatalf("%s: %d scales of shape %v, %v", c.scheme, len(scales), shape, err)
			}
			zeros, shape, err := x.ZeroPoints()
			if !c.zeros {
				if recovery.ClassOf(err) != recovery.NotFound {
					t.Errorf("%s: zero points %v, %v", c.scheme, zeros, err)
				}
				continue
			}
			if err != nil || !slices.Equal(shape, []int64{256, c.groups}) || int64(len(zeros)) != 256*c.groups {
				t.Fatalf("%s: %d zero points of shape %v, %v", c.scheme, len(zeros), shape, err)
			}
			// Each value is a whole number of steps from its group's zero,
			// and one of them is zero's own code at most away.
			values, err := x.Float32()
			if err != nil {
				t.Fatal(err)
			}
			group := len(values) / len(scales)
			for i, v := range values {
				code := float64(v)/float64(scales[i/group]) + float64(zeros[i/group])
				if off := code - float64(int(code+1000.5)-1000); off > 1e-3 || off < -1e-3 || code < -129 || code > 256 {
					t.Fatalf("%s: value %d is code %g of scale %g and zero point %d", c.scheme, i, code, scales[i/group], zeros[i/group])
				}
			}
		}
	}
}
