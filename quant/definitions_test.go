package quant

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// The schemes that no reference vectors are here for, held against their
// definitions, worked out value by value.

func f32At(b []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

// encoded encodes rows of a scheme, and returns the values too, before and
// after.
func encoded(t *testing.T, name string, rows, cols int) (s Scheme, x, dec []float32, planes [][]byte) {
	t.Helper()
	s, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	src := randomFloats(11, dtype.F16, rows*cols)
	for i := range rows * cols {
		x = append(x, elementF32(src, dtype.F16, i))
	}
	planes = encode(t, s, src, dtype.F16, rows, cols)
	dec = make([]float32, rows*cols)
	s.Decode(dec, planes, dtype.F16, rows, cols)
	return s, x, dec, planes
}

func TestFP8(t *testing.T) {
	const rows, cols = 3, 172
	for name, most := range map[string]float32{"fp8_e4m3": 448, "fp8_e5m2": 57344} {
		decode := dtype.F8E4M3ToF32
		if name == "fp8_e5m2" {
			decode = dtype.F8E5M2ToF32
		}
		_, x, dec, planes := encoded(t, name, rows, cols)
		for i := range x {
			r := i / cols
			scale := f32At(planes[1], r)
			if want := float32(absmax(x[r*cols:][:cols])) / most; scale != want {
				t.Fatalf("%s: scale %d is %g, want %g", name, r, scale, want)
			}
			y := float64(min(max(x[i]/scale, -most), most))
			got := math.Abs(float64(decode(planes[0][i])) - y)
			for q := range 256 { // no float of the type is nearer
				if v := float64(decode(uint8(q))); math.Abs(v-y) < got {
					t.Fatalf("%s: %g became %#02x, %#02x is nearer", name, y, planes[0][i], q)
				}
			}
			if want := decode(planes[0][i]) * scale; dec[i] != want {
				t.Fatalf("%s: value %d decodes to %g, want %g", name, i, dec[i], want)
			}
		}
	}
}

// TestFP8NotFinite pins what single values become, and their neighbours.
func TestFP8NotFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	row := []float32{inf, -inf, nan, 448, 1, 0, math.Float32frombits(0x80000000), 1e-9}
	got := encode(t, fp8{dtype.F8E4M3}, f32Bytes(row...), dtype.F32, 1, len(row))
	if want := []byte{0x7f, 0xff, 0x7f, 0x7e, 0x38, 0, 0x80, 0}; string(got[0]) != string(want) || f32At(got[1], 0) != 1 {
		t.Errorf("E4M3: % x, scale %g, want % x", got[0], f32At(got[1], 0), want)
	}
	row[3] = 57344
	got = encode(t, fp8{dtype.F8E5M2}, f32Bytes(row...), dtype.F32, 1, len(row))
	if want := []byte{0x7c, 0xfc, 0x7f, 0x7b, 0x3c, 0, 0x80, 0}; string(got[0]) != string(want) || f32At(got[1], 0) != 1 {
		t.Errorf("E5M2: % x, scale %g, want % x", got[0], f32At(got[1], 0), want)
	}
}

// TestNF4Middles holds that each middle is between its levels, and which of
// two as near is taken.
func TestNF4Middles(t *testing.T) {
	for i, m := range nf4Middles {
		if exact := (float64(nf4Levels[i]) + float64(nf4Levels[i+1])) / 2; math.Abs(float64(m)-exact) > 0x1p-24 {
			t.Errorf("middle %d is %g, not %g", i, m, exact)
		}
		if got := nf4Code(m); got != uint8(i) {
			t.Errorf("%g has the code %d, want %d: the lower one of two as near", m, got, i)
		}
		if got := nf4Code(math.Nextafter32(m, 1)); got != uint8(i+1) {
			t.Errorf("above %g: code %d, want %d", m, got, i+1)
		}
	}
}

func TestNF4(t *testing.T) {
	const rows, cols = 3, 192
	_, x, dec, planes := encoded(t, "nf4", rows, cols)
	for i := range x {
		most := f32At(planes[1], i/64)
		if want := float32(absmax(x[i/64*64:][:64])); most != want {
			t.Fatalf("absmax %d is %g, want %g", i/64, most, want)
		}
		q := planes[0][i/2] >> (4 - i%2*4) & 15
		for _, v := range nf4Levels {
			if math.Abs(float64(v)-float64(x[i]/most)) < math.Abs(float64(nf4Levels[q])-float64(x[i]/most))-0x1p-22 {
				t.Fatalf("%g of %g became %g, %g is nearer", x[i], most, nf4Levels[q], v)
			}
		}
		if want := nf4Levels[q] * most; dec[i] != want {
			t.Fatalf("value %d decodes to %g, want %g", i, dec[i], want)
		}
	}
	zeros := encode(t, nf4{}, make([]byte, 64*4), dtype.F32, 1, 64)
	if f32At(zeros[1], 0) != 0 || zeros[0][0] != 0x77 {
		t.Errorf("zeros have the codes %#x and absmax %g", zeros[0][0], f32At(zeros[1], 0))
	}
}

func TestBinary(t *testing.T) {
	for _, cols := range []int{60, 128, 384} {
		const rows = 3
		_, x, dec, planes := encoded(t, "binary", rows, cols)
		group, words := min(cols, 128), (cols+31)/32
		for i := range x {
			var sum float64
			for _, v := range x[i/group*group:][:group] {
				sum += math.Abs(float64(v))
			}
			scale := f32At(planes[1], i/group)
			if want := float32(sum / float64(group)); scale != want {
				t.Fatalf("%d columns: scale %d is %g, want %g", cols, i/group, scale, want)
			}
			r, c := i/cols, i%cols
			bit := binary.LittleEndian.Uint32(planes[0][4*(r*words+c/32):]) >> (c % 32) & 1
			want := scale
			if x[i] < 0 {
				want = -scale
			}
			if (bit == 1) != (x[i] >= 0) || dec[i] != want {
				t.Fatalf("%d columns: %g became bit %d, %g", cols, x[i], bit, dec[i])
			}
		}
	}
}

func TestNBits(t *testing.T) {
	for _, name := range []string{"ort_nbits4", "ort_nbits8", "ort_nbits4:symmetric=false", "ort_nbits8:block=16,symmetric=false", "ort_nbits4:block=64,symmetric=false"} {
		const rows, cols = 3, 172 // the last block is short
		p, x, dec, planes := encoded(t, name, rows, cols)
		s := p.(nbits)
		blocks, size := (cols+s.block-1)/s.block, s.block*s.bits/8
		top := float64(int(1)<<s.bits - 1)
		code := func(b []byte, i int) float64 {
			if s.bits == 8 {
				return float64(b[i])
			}
			return float64(b[i/2] >> (i % 2 * 4) & 15)
		}
		for i := range x {
			r, b := i/cols, i%cols/s.block
			var least, most float32
			for _, v := range x[r*cols+b*s.block : r*cols+min((b+1)*s.block, cols)] {
				least, most = min(least, v), max(most, v)
			}
			var scale float32
			zero := (top + 1) / 2
			switch {
			case !s.symmetric:
				scale = (most - least) / float32(top)
				zero = min(math.Round(float64(-least/scale)), top)
				stored := planes[2][r*len(planes[2])/rows:]
				if z := code(stored, b); z != zero {
					t.Fatalf("%s: zero point %d of row %d is %g, want %g", name, b, r, z, zero)
				}
			case most > -least:
				scale = -most / float32(zero)
			default:
				scale = -least / float32(zero)
			}
			if got := f32At(planes[1], r*blocks+b); got != scale {
				t.Fatalf("%s: scale %d of row %d is %g, want %g", name, b, r, got, scale)
			}
			q := code(planes[0][(r*blocks+b)*size:], i%cols%s.block)
			want := min(max(math.Round(float64(float32(x[i]*(1/scale))+float32(zero))), 0), top)
			if q != want || dec[i] != float32(q-zero)*scale {
				t.Fatalf("%s: %g became %g, want %g; it decodes to %g", name, x[i], q, want, dec[i])
			}
		}
		for r := range rows { // behind the last block is zero
			last := planes[0][((r+1)*blocks-1)*size:][:size]
			zero := (top + 1) / 2
			if !s.symmetric {
				zero = code(planes[2][r*len(planes[2])/rows:], blocks-1)
			}
			for i := cols - (blocks-1)*s.block; i < s.block; i++ {
				if code(last, i) != zero {
					t.Fatalf("%s: the last block of row %d is filled up with %g, not %g", name, r, code(last, i), zero)
				}
			}
		}
	}
}

// TestTinyAndHugeScales holds that values at the ends of F32's range stay
// within their bounds, and that encoding them is the same in any company.
func TestTinyAndHugeScales(t *testing.T) {
	for _, s := range variants(t) {
		cols := width(t, s)
		for _, x := range []float32{math.Float32frombits(1), 0x1p-140, 0x1p-127, 0x1p-126, 1e-30, 1e30, 0x1p127, math.MaxFloat32} {
			row := make([]float32, cols)
			for i := range row {
				row[i] = x * float32(1-2*(i&1))
			}
			got, bound := make([]float32, cols), make([]float64, cols)
			planes := encode(t, s, f32Bytes(row...), dtype.F32, 1, cols)
			s.Decode(got, planes, dtype.F32, 1, cols)
			s.Bound(bound, row, 1, cols)
			for i, y := range got {
				if e := math.Abs(float64(y) - float64(row[i])); !(e <= bound[i]) && !math.IsInf(bound[i], 1) {
					t.Errorf("%s: %g became %g: off by %g, more than %g", s.Name(), row[i], y, e, bound[i])
					break
				}
			}
		}
	}
}
