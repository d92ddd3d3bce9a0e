package quant

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

func TestParse(t *testing.T) {
	for i, name := range Names() {
		s, err := Parse(name)
		if err != nil || s != schemes[i] {
			t.Errorf("Parse(%q) = %v, %v", name, s, err)
		}
	}
	_, err := Parse("q9")
	if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), "q8_0") {
		t.Errorf("an unknown name gives %v, want a usage error that lists the known ones", err)
	}
}

func TestLayout(t *testing.T) {
	weight := func(d dtype.Type, cols, unit int64) []Plane { return []Plane{{DType: d, Cols: cols, Unit: unit}} }
	for _, c := range []struct {
		scheme string
		from   dtype.Type
		cols   int64
		want   Layout
		fails  bool
	}{
		{scheme: "none", from: dtype.BF16, cols: 7, want: Layout{Align: 1, Planes: weight(dtype.BF16, 1, 2)}},
		{scheme: "none", from: dtype.C64, cols: 7, want: Layout{Align: 1, Planes: weight(dtype.C64, 1, 8)}},
		{scheme: "none", from: dtype.F4, cols: 6, want: Layout{Align: 2, Planes: weight(dtype.F4, 2, 1)}},
		{scheme: "none", from: dtype.F6E3M2, cols: 8, want: Layout{Align: 4, Planes: weight(dtype.F6E3M2, 4, 3)}},
		{scheme: "none", from: dtype.F4, cols: 7, fails: true},
		{scheme: "none", from: dtype.Invalid, cols: 1, fails: true},
		{scheme: "f16", from: dtype.F64, cols: 3, want: Layout{Align: 1, Planes: weight(dtype.F16, 1, 2)}},
		{scheme: "f32", from: dtype.I32, cols: 3, fails: true},
		{scheme: "bf16", from: dtype.F32, cols: -1, fails: true},
		{scheme: "int8", from: dtype.BF16, cols: 172, want: Layout{Align: 1, Scope: Row, Planes: []Plane{
			{DType: dtype.I8, Cols: 1, Unit: 1}, {Role: Scales, Suffix: "_scale", DType: dtype.F32, Unit: 4}}}},
		{scheme: "int8", from: dtype.F8E4M3, cols: 172, fails: true},
		{scheme: "int4", from: dtype.BF16, cols: 256, want: Layout{Align: 128, Planes: []Plane{
			{Suffix: "_packed", DType: dtype.I32, Cols: 8, Unit: 4}, {Role: Scales, Suffix: "_scale", DType: dtype.F32, Cols: 128, Unit: 4}}}},
		{scheme: "int4", from: dtype.BF16, cols: 60, want: Layout{Align: 8, Scope: Row, Planes: []Plane{
			{Suffix: "_packed", DType: dtype.I32, Cols: 8, Unit: 4}, {Role: Scales, Suffix: "_scale", DType: dtype.F32, Unit: 4}}}},
		{scheme: "int4", from: dtype.BF16, cols: 172, fails: true},
		{scheme: "int2", from: dtype.BF16, cols: 172, fails: true},
		{scheme: "custom:bits=3,symmetric=false,group=48", from: dtype.F32, cols: 96, want: Layout{Align: 96, Planes: []Plane{
			{Suffix: "_packed", DType: dtype.I32, Cols: 32, Unit: 12}, {Role: Scales, Suffix: "_scale", DType: dtype.F32, Cols: 48, Unit: 4},
			{Role: ZeroPoints, Suffix: "_zero_point", DType: dtype.I8, Cols: 48, Unit: 1}}}},
		{scheme: "custom:bits=3", from: dtype.F32, cols: 80, fails: true},
		{scheme: "custom:group=0", from: dtype.I8, cols: 64, fails: true},
		{scheme: "q8_0", from: dtype.F16, cols: 64, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 34)}},
		{scheme: "q8_0", from: dtype.F16, cols: 172, fails: true},
		{scheme: "q8_0", from: dtype.Bool, cols: 64, fails: true},
		{scheme: "q4_0", from: dtype.BF16, cols: 64, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 18)}},
		{scheme: "q4_1", from: dtype.F32, cols: 64, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 20)}},
		{scheme: "q5_0", from: dtype.F32, cols: 64, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 22)}},
		{scheme: "q5_1", from: dtype.F32, cols: 64, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 24)}},
		{scheme: "q5_1", from: dtype.F32, cols: 172, fails: true},
		{scheme: "q2_K", from: dtype.F32, cols: 512, want: Layout{Align: 256, Planes: weight(dtype.U8, 256, 84)}},
		{scheme: "q3_K", from: dtype.F32, cols: 256, want: Layout{Align: 256, Planes: weight(dtype.U8, 256, 110)}},
		{scheme: "q4_K", from: dtype.BF16, cols: 256, want: Layout{Align: 256, Planes: weight(dtype.U8, 256, 144)}},
		{scheme: "q5_K", from: dtype.F32, cols: 256, want: Layout{Align: 256, Planes: weight(dtype.U8, 256, 176)}},
		{scheme: "q6_K", from: dtype.F32, cols: 256, want: Layout{Align: 256, Planes: weight(dtype.U8, 256, 210)}},
		{scheme: "q6_K", from: dtype.F32, cols: 64, fails: true},
		{scheme: "iq4_nl", from: dtype.F64, cols: 32, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 18)}},
		{scheme: "mxfp4", from: dtype.F32, cols: 32, want: Layout{Align: 32, Planes: weight(dtype.U8, 32, 17)}},
		{scheme: "mxfp4", from: dtype.F8E4M3, cols: 32, fails: true},
	} {
		s, err := Parse(c.scheme)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Layout(c.from, c.cols)
		if c.fails {
			if recovery.ClassOf(err) != recovery.Unsupported {
				t.Errorf("%s of %d %s: error %v, want class unsupported", c.scheme, c.cols, c.from, err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s of %d %s: %v %s", c.scheme, c.cols, c.from, err, diff)
		}
	}
}

// TestNoneKeepsBytes includes the types that pack elements.
func TestNoneKeepsBytes(t *testing.T) {
	for d := dtype.Bool; d <= dtype.U64; d++ {
		rows, cols := 3, 24
		n, err := d.Bytes(int64(rows * cols))
		if err != nil {
			t.Fatal(err)
		}
		src := make([]byte, n)
		for i := range src {
			src[i] = byte(i*7 + 1)
		}
		if got := encode(t, none{}, src, d, rows, cols); !bytes.Equal(got[0], src) {
			t.Errorf("%s: bytes changed", d)
		}
	}
}

func TestNoneDecode(t *testing.T) {
	got := make([]float32, 2)
	none{}.Decode(got, [][]byte{{0, 0x80, 0x80, 0x3f}}, dtype.BF16, 1, 2)
	if got[0] != 0 || got[1] != 1 {
		t.Errorf("BF16 decodes to %v", got)
	}
	none{}.Decode(got, [][]byte{{1, 2}}, dtype.U8, 1, 2)
	if got[0] == got[0] || got[1] == got[1] {
		t.Errorf("U8 decodes to %v, want NaN", got)
	}
}

// rowValues draws finite values of one row, of a magnitude of the row's own.
func rowValues(t *rapid.T, n int) []float32 {
	scale := math.Exp2(float64(rapid.IntRange(-149, 127).Draw(t, "exponent")))
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(rapid.Float64Range(-1, 1).Draw(t, "x") * scale)
	}
	return row
}

// TestErrorBounds holds that no value decodes further from what it was than
// Bound says, whatever the values, and that Bound says something useful.
func TestErrorBounds(t *testing.T) {
	for _, s := range variants(t) {
		t.Run(s.Name(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				rows, cols := rapid.IntRange(1, 2).Draw(rt, "rows"), width(t, s)
				var x []float32
				for range rows {
					x = append(x, rowValues(rt, cols)...)
				}
				got, bound := make([]float32, len(x)), make([]float64, len(x))
				s.Decode(got, encode(t, s, f32Bytes(x...), dtype.F32, rows, cols), dtype.F32, rows, cols)
				s.Bound(bound, x, rows, cols)
				ordinary := absmax(x) < 65504
				for i, x := range x {
					if e := math.Abs(float64(got[i]) - float64(x)); !(e <= bound[i]) && !math.IsInf(bound[i], 1) {
						rt.Fatalf("%g became %g: off by %g, more than %g", x, got[i], e, bound[i])
					}
					if ordinary && math.IsInf(bound[i], 1) {
						rt.Fatalf("nothing is promised for %g", x)
					}
				}
			})
		})
	}
}

// TestNoBound holds that nothing is promised where a value is not finite.
func TestNoBound(t *testing.T) {
	for _, s := range variants(t) {
		x := make([]float32, width(t, s))
		x[3] = float32(math.NaN())
		bound := make([]float64, len(x))
		if s.Bound(bound, x, 1, len(x)); !math.IsInf(bound[3], 1) {
			t.Errorf("%s promises %g of NaN", s.Name(), bound[3])
		}
	}
}

// TestPieces holds that a tensor encoded in runs of rows, and in runs of
// aligned columns where a row may be cut, equals the tensor encoded whole.
func TestPieces(t *testing.T) {
	for _, s := range variants(t) {
		t.Run(s.Name(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				from := rapid.SampledFrom(floats).Draw(rt, "from")
				rows, cols := rapid.IntRange(1, 5).Draw(rt, "rows"), width(t, s)/2*rapid.IntRange(1, 4).Draw(rt, "blocks")
				src := randomFloats(rapid.Uint64().Draw(rt, "seed"), from, rows*cols)
				whole := encode(t, s, src, from, rows, cols)
				l, err := s.Layout(from, int64(cols))
				if err != nil {
					rt.Fatal(err)
				}
				step := cols
				s := s // of the parts
				if l.Scope == Tensor {
					s = Fit(s, FiniteAbsmax(src, from))
				}
				if l.Scope == Block {
					step = int(l.Align) * rapid.IntRange(1, cols/int(l.Align)).Draw(rt, "step")
				}
				size := from.Size()
				pieces := make([][]byte, len(l.Planes))
				for r := range rows {
					for c := 0; c < cols; c += step {
						n := min(step, cols-c)
						at := (r*cols + c) * size
						for p, b := range encode(t, s, src[at:at+n*size], from, 1, n) {
							pieces[p] = append(pieces[p], b...)
						}
					}
				}
				for p := range whole {
					if i := firstDiff(pieces[p], whole[p]); i >= 0 {
						rt.Fatalf("plane %d differs at byte %d", p, i)
					}
				}
			})
		})
	}
}

// TestNotFinite pins what a NaN or an infinity does to what is around it.
func TestNotFinite(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, bad := range []float32{inf, -inf, float32(math.NaN()), math.Float32frombits(0xff800001)} {
		for at := range 64 {
			row := make([]float32, 64)
			for i := range row {
				row[i] = float32(i) - 31.5
			}
			row[at] = bad
			eachTwin(t, "q8_0", func(t *testing.T) {
				got := encode(t, q8_0{}, f32Bytes(row...), dtype.F32, 1, len(row))[0]
				block := got[at/32*34 : at/32*34+34]
				want := append([]byte{0x00, 0x7e}, make([]byte, 32)...)
				if !bytes.Equal(block, want) {
					t.Errorf("%g at %d: block % x", bad, at, block)
				}
				if other := got[(1-at/32)*34:]; binary.LittleEndian.Uint16(other)&0x7c00 == 0x7c00 {
					t.Errorf("%g at %d: the other block is lost too", bad, at)
				}
			})
			eachTwin(t, "int8", func(t *testing.T) {
				got := encode(t, rowInt8{}, f32Bytes(row...), dtype.F32, 1, len(row))
				if !bytes.Equal(got[0], make([]byte, 64)) || binary.LittleEndian.Uint32(got[1]) != nanBits {
					t.Errorf("%g at %d: q % x, scale % x", bad, at, got[0], got[1])
				}
			})
		}
	}
}

// TestExtremes pins the scales at the ends of F32's range.
func TestExtremes(t *testing.T) {
	for _, c := range []struct {
		x     float32
		d     uint16 // q8_0
		q     int8
		scale float32 // int8
		q8    int8
	}{
		{x: 0, scale: 0x1p-23},
		{x: math.Float32frombits(1), scale: 0x1p-23},
		{x: math.Float32frombits(q8MinBits - 1), scale: 0x1p-23},
		{x: math.Float32frombits(q8MinBits), q: 127, scale: 0x1p-23},
		{x: -1e-30, q: -127, scale: 0x1p-23},
		{x: 127.5, d: 0x3c04, q: 127, scale: 1, q8: 127},
		{x: -127.5, d: 0x3c04, q: -127, scale: 1, q8: -128},
		{x: 9e6, d: 0x7c00, q: 127, scale: 9e6 / 127.5, q8: 127},
		{x: math.MaxFloat32, d: 0x7c00, q: 127, scale: math.MaxFloat32 / 127.5, q8: 127},
	} {
		row := make([]float32, 32)
		row[5] = c.x
		eachTwin(t, "extreme", func(t *testing.T) {
			b := encode(t, q8_0{}, f32Bytes(row...), dtype.F32, 1, 32)[0]
			if d := binary.LittleEndian.Uint16(b); d != c.d || int8(b[2+5]) != c.q {
				t.Errorf("q8_0 of %g: d %#04x q %d, want %#04x %d", c.x, d, int8(b[2+5]), c.d, c.q)
			}
			p := encode(t, rowInt8{}, f32Bytes(row...), dtype.F32, 1, 32)
			scale := math.Float32frombits(binary.LittleEndian.Uint32(p[1]))
			if scale != c.scale || int8(p[0][5]) != c.q8 {
				t.Errorf("int8 of %g: scale %g q %d, want %g %d", c.x, scale, int8(p[0][5]), c.scale, c.q8)
			}
		})
	}
}

// TestAllocs holds that encoding and decoding allocate nothing.
func TestAllocs(t *testing.T) {
	const rows = 4
	for _, s := range variants(t) {
		cols := width(t, s)
		for _, from := range floats {
			src := randomFloats(1, from, rows*cols)
			dst := encode(t, s, src, from, rows, cols)
			dec := make([]float32, rows*cols)
			eachTwin(t, s.Name()+"/"+from.String(), func(t *testing.T) {
				n := testing.AllocsPerRun(10, func() {
					s.Encode(dst, src, from, rows, cols)
					s.Decode(dec, dst, from, rows, cols)
				})
				if n != 0 {
					t.Errorf("%v allocations", n)
				}
			})
		}
	}
}
