package ort

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// scalesIn draws n F32 scales into an arena.
func scalesIn(t *testing.T, n int, r *rand.Rand) ([]byte, []float32) {
	t.Helper()
	var b []byte
	values := make([]float32, n)
	for i := range values {
		values[i] = r.Float32() - 0.5 // MatMulNBits has scales of both signs
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(values[i]))
	}
	return inArena(t, b), values
}

func noise(n int, r *rand.Rand) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// quantized is a weight of codes and its values.
type quantized struct {
	name   string
	w      Matrix
	values []float32
}

// quantizedIn draws weights of each kind, of rows × cols.
func quantizedIn(t *testing.T, rows, cols int, r *rand.Rand) []quantized {
	t.Helper()
	var all []quantized
	for _, typ := range []dtype.Type{dtype.U8, dtype.U4, dtype.F8E4M3, dtype.F8E5M2} {
		for _, block := range []int{0, 32} {
			for _, zeros := range []bool{false, true} {
				signed := typ == dtype.F8E4M3 || typ == dtype.F8E5M2
				if typ == dtype.U4 && cols%2 != 0 || block > 0 && (cols <= block || cols%block != 0) || signed && (zeros || block > 0) {
					continue
				}
				all = append(all, weightOf(t, typ, block, zeros, rows, cols, r))
			}
		}
	}
	for _, bits := range []int{4, 8} {
		for _, block := range []int{16, 32, 128} {
			for _, zeros := range []bool{false, true} {
				all = append(all, nbitsOf(t, bits, block, zeros, rows, cols, r))
			}
		}
	}
	return all
}

func weightOf(t *testing.T, typ dtype.Type, block int, zeros bool, rows, cols int, r *rand.Rand) quantized {
	t.Helper()
	w := Weight{Type: typ, Rows: rows, Cols: cols, ScaleType: dtype.F32, Block: block}
	groups := w.groups()
	var scales []float32
	w.Scales, scales = scalesIn(t, rows*groups, r)
	data := noise(rows*cols, r)
	if typ == dtype.U4 {
		data = data[:rows*cols/2]
	}
	for i := range data { // no NaN, no infinity
		if typ == dtype.F8E4M3 || typ == dtype.F8E5M2 {
			data[i] &= 0xbb
		}
	}
	w.Data = inArena(t, data)
	if zeros {
		w.Zeros = noise(rows*groups, r)
		for i := range w.Zeros {
			if typ == dtype.U4 {
				w.Zeros[i] &= 15
			}
		}
	}
	values := make([]float32, rows*cols)
	for i := range values {
		g := i/cols*groups + i%cols*groups/cols
		var code, zero float32
		switch typ {
		case dtype.U8:
			code, zero = float32(data[i]), 128
		case dtype.U4:
			code, zero = float32(data[i/2]>>(i%2*4)&15), 8
		case dtype.F8E4M3:
			code = dtype.F8E4M3ToF32(data[i])
		case dtype.F8E5M2:
			code = dtype.F8E5M2ToF32(data[i])
		}
		if zeros {
			zero = float32(w.Zeros[g])
		}
		values[i] = (code - zero) * scales[g]
	}
	return quantized{fmt.Sprintf("%s block %d zeros %t", typ, block, zeros), w, values}
}

func nbitsOf(t *testing.T, bits, block int, zeros bool, rows, cols int, r *rand.Rand) quantized {
	t.Helper()
	w := NBits{Bits: bits, Block: block, Rows: rows, Cols: cols}
	blocks := w.blocks()
	var scales []float32
	w.Scales, scales = scalesIn(t, rows*blocks, r)
	w.Data = inArena(t, noise(rows*blocks*block*bits/8, r))
	if zeros {
		w.Zeros = inArena(t, noise(rows*w.zeroBytes(), r))
	}
	code := func(b []byte, i int) float32 {
		if bits == 8 {
			return float32(b[i])
		}
		return float32(b[i/2] >> (i % 2 * 4) & 15)
	}
	values := make([]float32, rows*cols)
	for i := range values {
		row, b := i/cols, i%cols/block
		zero := float32(int(1) << (bits - 1))
		if zeros {
			zero = code(w.Zeros[row*w.zeroBytes():], b)
		}
		values[i] = (code(w.Data[(row*blocks+b)*block*bits/8:], i%cols%block) - zero) * scales[row*blocks+b]
	}
	return quantized{fmt.Sprintf("%d bits block %d zeros %t", bits, block, zeros), w, values}
}

// TestQuantized holds x·Wᵀ over placed codes, scales and zero points against
// sums in float64.
func TestQuantized(t *testing.T) {
	r := openRuntime(t)
	for _, d := range [][3]int{{1, 1, 64}, {2, 48, 64}, {3, 33, 256}, {1, 7, 172}, {5, 9, 384}, {2, 5, 33}} {
		m, rows, cols := d[0], d[1], d[2]
		rnd := rand.New(rand.NewPCG(9, uint64(rows*cols)))
		for _, q := range quantizedIn(t, rows, cols, rnd) {
			t.Run(fmt.Sprintf("%s %d×%d·(%d×%d)ᵀ", q.name, m, cols, rows, cols), func(t *testing.T) {
				x := draw(m*cols, rnd)
				got, err := r.MulT(x, m, q.w)
				if err != nil {
					t.Fatal(err)
				}
				if e := relative(got, multiply(x, q.values, m, rows, cols)); !(e < 1e-5) {
					t.Errorf("relative error %g", e)
				}
			})
		}
	}
}

// TestQuantizedInParts: a weight in several parts gives what one in a single
// part gives, with the scales and zero points of its own rows.
func TestQuantizedInParts(t *testing.T) {
	r := openRuntime(t)
	const m, rows, cols = 2, 600, 4096
	rnd := rand.New(rand.NewPCG(10, 1))
	for _, q := range []quantized{
		weightOf(t, dtype.U4, 128, true, rows, cols, rnd), weightOf(t, dtype.F8E4M3, 0, false, rows, cols, rnd),
		nbitsOf(t, 4, 32, true, rows, cols, rnd), nbitsOf(t, 8, 32, false, rows, cols, rnd),
	} {
		x := draw(m*cols, rnd)
		got, err := r.MulT(x, m, q.w)
		if err != nil {
			t.Fatal(err)
		}
		if e := relative(got, multiply(x, q.values, m, rows, cols)); !(e < 1e-5) {
			t.Errorf("%s: relative error %g", q.name, e)
		}
	}
}

// TestQuantizedIsNotCopied: DequantizeLinear reads the arena's own codes and
// scales, each time.
func TestQuantizedIsNotCopied(t *testing.T) {
	r := openRuntime(t)
	const m, rows, cols = 2, 12, 64
	rnd := rand.New(rand.NewPCG(12, 3))
	for _, typ := range []dtype.Type{dtype.U4, dtype.U8, dtype.F8E4M3} {
		before, after := weightOf(t, typ, 0, false, rows, cols, rnd), weightOf(t, typ, 0, false, rows, cols, rnd)
		x := draw(m*cols, rnd)
		s, err := r.NewSession(before.w.graph(m).session())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]float32{before.values, after.values} {
			got, err := s.mul(x, m, before.w)
			if err != nil {
				t.Fatal(err)
			}
			if e := relative(got, multiply(x, want, m, rows, cols)); !(e < 1e-5) {
				t.Errorf("%s: relative error %g", typ, e)
			}
			copy(before.w.(Weight).Data, after.w.(Weight).Data)
			copy(before.w.(Weight).Scales, after.w.(Weight).Scales)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestQuantizedRefuses(t *testing.T) {
	r := openRuntime(t)
	weight := Weight{Type: dtype.U4, Rows: 2, Cols: 64, Data: make([]byte, 64), Scales: make([]byte, 16), ScaleType: dtype.F32, Block: 32}
	bits := NBits{Bits: 4, Block: 32, Rows: 2, Cols: 64, Data: make([]byte, 64), Scales: make([]byte, 16)}
	x := make([]float32, 64)
	for _, w := range []Matrix{weight, bits} {
		if _, err := r.MulT(x, 1, w); err != nil {
			t.Fatalf("%s: %v", w, err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(*Weight, *NBits)
		class recovery.Class
	}{
		"short data":           {func(w *Weight, b *NBits) { w.Data, b.Data = w.Data[1:], b.Data[1:] }, recovery.Usage},
		"a scale too few":      {func(w *Weight, b *NBits) { w.Scales, b.Scales = w.Scales[4:], b.Scales[4:] }, recovery.Usage},
		"a zero point too few": {func(w *Weight, b *NBits) { w.Zeros, b.Zeros = []byte{1}, []byte{1} }, recovery.Usage},
		"no rows":              {func(w *Weight, b *NBits) { w.Rows, b.Rows = 0, 0 }, recovery.Usage},
		"too many rows":        {func(w *Weight, b *NBits) { w.Rows, b.Rows = math.MaxInt/8, math.MaxInt/8 }, recovery.Usage},
		"scales of a type that has no operator, blocks that have none": {func(w *Weight, b *NBits) { w.ScaleType, b.Block = dtype.F64, 24 }, recovery.Unsupported},
		"bits that have none": {func(w *Weight, b *NBits) { w.Type, b.Bits = dtype.I64, 5 }, recovery.Unsupported},
	} {
		w, b := weight, bits
		c.spoil(&w, &b)
		for _, m := range []Matrix{w, b} {
			if _, err := r.MulT(x, 1, m); recovery.ClassOf(err) != c.class {
				t.Errorf("%s: %T: %v, want class %s", name, m, err, c.class)
			}
		}
	}
}
