package ort

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// kinds are the weights that MulT takes: element type and, for I8, the
// scales' type.
var kinds = [][2]dtype.Type{
	{dtype.F32}, {dtype.F16}, {dtype.BF16},
	{dtype.I8, dtype.F32}, {dtype.I8, dtype.F16}, {dtype.I8, dtype.BF16},
}

// encode draws an element of type t and returns its bytes and its value.
func encode(t dtype.Type, r *rand.Rand) ([]byte, float32) {
	f := r.Float32() - 0.5
	switch t {
	case dtype.F32:
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(f)), f
	case dtype.BF16:
		b := uint16(math.Float32bits(f) >> 16)
		return binary.LittleEndian.AppendUint16(nil, b), math.Float32frombits(uint32(b) << 16)
	case dtype.F16: // sign, exponent 15-8 to 15-1, ten bits of fraction
		e, frac, sign := r.IntN(8)+7, r.IntN(1<<10), r.IntN(2)
		v := math.Ldexp(1+float64(frac)/1024, e-15) * float64(1-2*sign)
		return binary.LittleEndian.AppendUint16(nil, uint16(sign<<15|e<<10|frac)), float32(v)
	}
	i := int8(r.IntN(255) - 127)
	return []byte{byte(i)}, float32(i)
}

// weightIn draws a weight, its bytes in an arena, and its values.
func weightIn(t *testing.T, kind [2]dtype.Type, rows, cols int, r *rand.Rand) (Weight, []float32) {
	t.Helper()
	var data, scales []byte
	values := make([]float32, rows*cols)
	for i := range values {
		b, v := encode(kind[0], r)
		data, values[i] = append(data, b...), v
	}
	w := Weight{Type: kind[0], Rows: rows, Cols: cols}
	if w.Type == dtype.I8 {
		w.ScaleType = kind[1]
		for row := range rows {
			b, s := encode(kind[1], r)
			scales = append(scales, b...)
			for i := range cols {
				values[row*cols+i] *= s
			}
		}
	}
	w.Data, w.Scales = inArena(t, data), inArena(t, scales)
	return w, values
}

// inArena copies b to memory that is not Go's, as that of arenas.
func inArena(t *testing.T, b []byte) []byte {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	m, err := unix.Mmap(-1, 0, len(b), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	copy(m, b)
	return m
}

// multiply is x·Wᵀ with sums in float64.
func multiply(x, w []float32, m, rows, cols int) []float32 {
	y := make([]float32, m*rows)
	for i := range m {
		for j := range rows {
			var sum float64
			for k := range cols {
				sum += float64(x[i*cols+k]) * float64(w[j*cols+k])
			}
			y[i*rows+j] = float32(sum)
		}
	}
	return y
}

func draw(n int, r *rand.Rand) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32() - 0.5
	}
	return x
}

func name(kind [2]dtype.Type) string {
	if kind[1] == dtype.Invalid {
		return kind[0].String()
	}
	return kind[0].String() + " scales " + kind[1].String()
}

func TestMulT(t *testing.T) {
	r := openRuntime(t)
	for _, kind := range kinds {
		for _, d := range [][3]int{{1, 1, 1}, {1, 1, 77}, {2, 48, 64}, {3, 33, 31}, {5, 7, 1}, {1, 257, 511}} {
			m, rows, cols := d[0], d[1], d[2]
			t.Run(fmt.Sprintf("%s %d×%d·(%d×%d)ᵀ", name(kind), m, cols, rows, cols), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(1, uint64(rows*cols)))
				w, values := weightIn(t, kind, rows, cols, rnd)
				data, scales := bytes.Clone(w.Data), bytes.Clone(w.Scales)
				x := draw(m*cols, rnd)
				got, err := r.MulT(x, m, w)
				if err != nil {
					t.Fatal(err)
				}
				if e := relative(got, multiply(x, values, m, rows, cols)); !(e < 1e-5) {
					t.Errorf("relative error %g", e)
				}
				if !bytes.Equal(w.Data, data) || !bytes.Equal(w.Scales, scales) {
					t.Error("the weight was written")
				}
			})
		}
	}
}

// TestWeightsAreNotCopied: what is written into the arena after the session
// was made is what it multiplies with. A copy, or a constant folded from the
// placeholder's zeros, would give the old result, or zeros.
func TestWeightsAreNotCopied(t *testing.T) {
	r := openRuntime(t)
	for _, kind := range kinds {
		t.Run(name(kind), func(t *testing.T) {
			const m, rows, cols = 2, 37, 65
			rnd := rand.New(rand.NewPCG(2, 3))
			w, before := weightIn(t, kind, rows, cols, rnd)
			next, after := weightIn(t, kind, rows, cols, rnd)
			x := draw(m*cols, rnd)
			s, err := r.NewSession(w.graph(m).session())
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range [][]float32{before, after} {
				got, err := s.mul(x, m, w)
				if err != nil {
					t.Fatal(err)
				}
				if e := relative(got, multiply(x, want, m, rows, cols)); !(e < 1e-5) {
					t.Errorf("relative error %g", e)
				}
				copy(w.Data, next.Data)
				copy(w.Scales, next.Scales)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMulTInParts: a weight that is expanded in several parts gives what one
// in a single part gives.
func TestMulTInParts(t *testing.T) {
	r := openRuntime(t)
	const m, rows, cols = 2, 1500, 4001
	w := Weight{Type: dtype.I8, ScaleType: dtype.F32, Rows: rows, Cols: cols}
	rnd := rand.New(rand.NewPCG(4, 5))
	w.Data, w.Scales = make([]byte, rows*cols), make([]byte, 4*rows)
	for i := range w.Data {
		w.Data[i] = byte(rnd.IntN(256))
	}
	for i := range rows {
		binary.LittleEndian.PutUint32(w.Scales[4*i:], math.Float32bits(rnd.Float32()))
	}
	x := draw(m*cols, rnd)
	got, err := r.MulT(x, m, w)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := r.mulPart(x, m, w)
	if err != nil {
		t.Fatal(err)
	}
	if e := relative(got, whole); !(e < 1e-6) {
		t.Errorf("relative difference %g", e)
	}
}

func TestMulTAtOnce(t *testing.T) {
	r := openRuntime(t)
	rnd := rand.New(rand.NewPCG(6, 7))
	const m, rows, cols = 1, 16, 32
	var g errgroup.Group
	for range 8 {
		w, values := weightIn(t, kinds[2], rows, cols, rnd)
		x := draw(m*cols, rnd)
		g.Go(func() error {
			got, err := r.MulT(x, m, w)
			if err == nil && !(relative(got, multiply(x, values, m, rows, cols)) < 1e-5) {
				err = fmt.Errorf("wrong result")
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMulTRefuses(t *testing.T) {
	r := openRuntime(t)
	good := Weight{Type: dtype.F32, Data: make([]byte, 24), Rows: 2, Cols: 3}
	for _, tt := range []struct {
		name  string
		class recovery.Class
		m     int
		x     int
		spoil func(*Weight)
	}{
		{"short data", recovery.Usage, 1, 3, func(w *Weight) { w.Data = w.Data[:23] }},
		{"no rows", recovery.Usage, 1, 3, func(w *Weight) { w.Rows, w.Data = 0, nil }},
		{"rows that overflow", recovery.Usage, 1, 3, func(w *Weight) { w.Rows = math.MaxInt }},
		{"wrong x", recovery.Usage, 1, 4, func(*Weight) {}},
		{"no x", recovery.Usage, 0, 0, func(*Weight) {}},
		{"m that overflows", recovery.Usage, math.MaxInt, 3, func(*Weight) {}},
		{"scales of a float", recovery.Usage, 1, 3, func(w *Weight) { w.Scales = make([]byte, 8) }},
		{"unknown type", recovery.Unsupported, 1, 3, func(w *Weight) { w.Type = dtype.I64 }},
		{"int8 without scales", recovery.Unsupported, 1, 3, func(w *Weight) { w.Type, w.Data = dtype.I8, w.Data[:6] }},
		{"int8 with a scale missing", recovery.Usage, 1, 3, func(w *Weight) {
			w.Type, w.Data, w.ScaleType, w.Scales = dtype.I8, w.Data[:6], dtype.F32, make([]byte, 4)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := good
			tt.spoil(&w)
			if _, err := r.MulT(make([]float32, tt.x), tt.m, w); recovery.ClassOf(err) != tt.class {
				t.Errorf("%v, want class %s", err, tt.class)
			}
		})
	}
}

// TestMulTLeavesNoFiles: the placeholder goes with the session's creation.
func TestMulTLeavesNoFiles(t *testing.T) {
	r := openRuntime(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	w := Weight{Type: dtype.F32, Data: make([]byte, 24), Rows: 2, Cols: 3}
	if _, err := r.MulT(make([]float32, 3), 1, w); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
