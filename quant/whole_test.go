package quant

import (
	"math"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// TestFit holds that parts of a tensor, fitted to it, are encoded as the whole
// is; and that fitting changes no scheme of another scope.
func TestFit(t *testing.T) {
	for _, s := range variants(t) {
		cols := width(t, s)
		const rows = 4
		src := randomFloats(21, dtype.BF16, rows*cols)
		l, err := s.Layout(dtype.BF16, int64(cols))
		if err != nil {
			t.Fatal(err)
		}
		var most float32
		for r := range rows {
			most = max(most, FiniteAbsmax(src[2*r*cols:][:2*cols], dtype.BF16))
		}
		fitted := Fit(s, most)
		if (fitted != s) != (l.Scope == Tensor) || fitted.Name() != s.Name() {
			t.Errorf("%s fitted is %v", s.Name(), fitted)
		}
		if kept := Fit(WithOriginal(s), most); kept != WithOriginal(fitted) {
			t.Errorf("%s with the originals fitted is %v", s.Name(), kept)
		}
		whole := encode(t, s, src, dtype.BF16, rows, cols)
		for r := range rows {
			for p, b := range encode(t, fitted, src[2*r*cols:][:2*cols], dtype.BF16, 1, cols) {
				if firstDiff(b, whole[p][r*len(b):][:len(b)]) >= 0 {
					t.Errorf("%s: plane %d of row %d alone differs", s.Name(), p, r)
				}
			}
		}
	}
}

func TestFiniteAbsmax(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		x    []float32
		want float32
	}{{nil, 0}, {[]float32{inf, nan}, 0}, {[]float32{-3, 2}, 3}, {[]float32{1, -inf, nan, -2, 0.5}, 2}} {
		if got := FiniteAbsmax(f32Bytes(c.x...), dtype.F32); got != c.want {
			t.Errorf("of %g: %g, want %g", c.x, got, c.want)
		}
	}
}

func TestFP8Tensor(t *testing.T) {
	const rows, cols = 3, 172
	_, x, dec, planes := encoded(t, "fp8_e4m3:scale=tensor", rows, cols)
	scale := float32(absmax(x)) / 448
	for r := range rows {
		if got := f32At(planes[1], r); got != scale {
			t.Errorf("scale of row %d is %g, want the tensor's, %g", r, got, scale)
		}
	}
	for i := range x {
		if want := dtype.F8E4M3ToF32(dtype.F32ToF8E4M3(min(max(x[i]/scale, -448), 448))) * scale; dec[i] != want {
			t.Fatalf("%g decodes to %g, want %g", x[i], dec[i], want)
		}
	}
}

// TestNVFP4 holds codes and scales against the formulas, with a block far
// smaller than the others.
func TestNVFP4(t *testing.T) {
	const rows, cols = 3, 64
	x, src := make([]float32, rows*cols), randomFloats(4, dtype.F32, rows*cols)
	for i := range x {
		x[i] = elementF32(src, dtype.F32, i)
		if i/16 == 5 {
			x[i] *= 1e-5
		}
		if i/16 == 6 {
			x[i] = 0
		}
	}
	planes := encode(t, nvfp4{}, f32Bytes(x...), dtype.F32, rows, cols)
	dec := make([]float32, len(x))
	nvfp4{}.Decode(dec, planes, dtype.F32, rows, cols)
	global := float32(2688) / float32(absmax(x))
	for r := range rows {
		if got := f32At(planes[2], r); got != global {
			t.Fatalf("global scale %g, want %g", got, global)
		}
	}
	for i := range x {
		most := float32(absmax(x[i/16*16:][:16]))
		scale := dtype.F8E4M3ToF32(dtype.F32ToF8E4M3(min(most/6*global, 448)))
		if scale == 0 {
			scale = 0.125
		}
		if got := dtype.F8E4M3ToF32(planes[1][i/16]); got != scale {
			t.Fatalf("scale of block %d is %g, want %g", i/16, got, scale)
		}
		y := float64(x[i] / (scale / global))
		q := planes[0][i/2] >> (i % 2 * 4) & 15
		got := float64(nvfp4Value(q, 1))
		for c := range uint8(16) {
			if v := float64(nvfp4Value(c, 1)); math.Abs(v-y) < math.Abs(got-y) {
				t.Fatalf("%g became %g, %g is nearer", y, got, v)
			}
		}
		if want := float32(got) * (scale / global); dec[i] != want {
			t.Fatalf("value %d decodes to %g, want %g", i, dec[i], want)
		}
	}
}

// TestNVFP4Ties pins what lies halfway between two codes, and beyond the last.
func TestNVFP4Ties(t *testing.T) {
	for y, want := range map[float32]uint8{0: 0, 0.25: 0, 0.75: 2, 1.25: 2, 1.75: 4, 2.5: 4, 3.5: 6, 5: 6, 5.5: 7, 6.4: 7, -0.1: 8, -0.75: 10, -9: 15} {
		if got := nvfp4Code(y); got != want {
			t.Errorf("%g has the code %d, want %d", y, got, want)
		}
	}
}
