package quant

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// floats are the types that kernels read.
var floats = []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.F64}

// randomFloats returns n normally distributed elements.
func randomFloats(seed uint64, d dtype.Type, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n*d.Size())
	for range n {
		b = appendFloat(b, d, r.NormFloat64()*0.02)
	}
	return b
}

func appendFloat(b []byte, d dtype.Type, f float64) []byte {
	switch d {
	case dtype.F32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(f)))
	case dtype.F16:
		return binary.LittleEndian.AppendUint16(b, dtype.F32ToF16(float32(f)))
	case dtype.BF16:
		return binary.LittleEndian.AppendUint16(b, dtype.F32ToBF16(float32(f)))
	default:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
	}
}

// adversaries returns rows of n elements that kernels could treat apart: any
// bits at all, bits near the borders of the formats, ties, and one odd value
// among ordinary ones.
func adversaries(seed uint64, d dtype.Type, n int) map[string][]byte {
	r := rand.New(rand.NewPCG(seed, 2))
	size := d.Size()
	noise := make([]byte, n*size)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	rows := map[string][]byte{"noise": noise, "normal": randomFloats(seed, d, n)}
	ties := make([]byte, 0, n*size)
	for range n {
		ties = appendFloat(ties, d, float64(r.IntN(255)-127)/2)
	}
	copy(ties, appendFloat(nil, d, 127))
	rows["q8 ties"] = ties
	ties = append(make([]byte, 0, n*size), ties...)
	copy(ties, appendFloat(nil, d, 127.5))
	rows["int8 ties"] = ties
	borders := make([]byte, 0, n*size)
	for range n {
		f := math.Float32frombits(edges[r.IntN(len(edges))] + uint32(r.IntN(3)) - 1 | uint32(r.IntN(2))<<31)
		borders = appendFloat(borders, d, float64(f))
	}
	rows["borders"] = borders
	// The largest magnitude of both signs in turn, and zeros of both signs,
	// where only the order decides; then what is finite at the formats' ends.
	for name, of := range map[string][]float64{
		"signs":       {-1, 1, 0.5},
		"zeros":       {0, math.Copysign(0, -1)},
		"minimum":     {0, math.Copysign(0, -1), 1},
		"nonnegative": {0, 1, 2, 3},
		"negative":    {-1, -2, -3},
		"nonpositive": {math.Copysign(0, -1), 0, -1, -2},
		"tiny":        {0x1p-149, -0x1p-149, 0x1p-130, 0x1.8p-128, -0x1p-24},
		"huge":        {0x1p127, -0x1p127, math.MaxFloat32, -math.MaxFloat32, 65504},
	} {
		row := make([]byte, 0, n*size)
		for range n {
			row = appendFloat(row, d, of[r.IntN(len(of))])
		}
		rows[name] = row
	}
	// Groups of very different sizes, and of values that hardly differ.
	scales, near := make([]byte, 0, n*size), make([]byte, 0, n*size)
	var exponent int
	for i := range n {
		if i%16 == 0 {
			exponent = r.IntN(275) - 149
		}
		scales = appendFloat(scales, d, math.Ldexp(r.NormFloat64(), exponent))
		near = appendFloat(near, d, -1-float64(r.IntN(3))*0x1p-23)
	}
	rows["scales"], rows["near"] = scales, near
	limit := randomFloats(seed, d, n)
	for i := range n {
		if i/16%3 == 0 {
			f := math.Float32frombits(math.Float32bits(groupEpsilon) - uint32(r.IntN(2)))
			copy(limit[i*size:], appendFloat(nil, d, float64(f)*float64(1-r.IntN(3))))
		}
	}
	rows["limit"] = limit
	for _, e := range edges {
		row := randomFloats(seed, d, n)
		f := float64(math.Float32frombits(e | uint32(r.IntN(2))<<31))
		copy(row[r.IntN(n)*size:], appendFloat(nil, d, f))
		rows["one "+dtype.F32.String()+" "+hex(e)] = row
		small := make([]byte, n*size)
		copy(small[r.IntN(n)*size:], appendFloat(nil, d, f))
		rows["only "+hex(e)] = small
	}
	return rows
}

func hex(v uint32) string {
	const digits = "0123456789abcdef"
	var b [8]byte
	for i := range b {
		b[i] = digits[v>>(28-4*i)&15]
	}
	return string(b[:])
}

// edges are F32 bits at the borders of F32, F16, BF16 and the schemes.
var edges = []uint32{
	0, 1, 0x007fffff, 0x00800000, // F32 denormals
	q8MinBits - 1, q8MinBits, q8MinBits + 1, // 1/d overflows
	0x33000000, 0x33000001, 0x337fffff, 0x33800000, 0x33c00000, // half of F16's smallest
	0x387fe000, 0x387ff000, 0x38800000, // F16's smallest normal
	0x3effffff, 0x3f000000, 0x3f7fffff, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f801000, 0x3f803000,
	0x42fe0000, 0x42fdffff, 0x42fe0001, 0x42ff0000, // 127, 127.5
	0x477fe000, 0x477fefff, 0x477ff000, 0x47800000, // F16's largest
	0x4afde020, 0x4afdf010, 0x4afe0000, // d overflows F16
	0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, // BF16's largest, F32's largest
	0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, // infinity, NaN
}

// TestTwins holds that every kernel gives the oracle's bytes, whatever the
// input, its length and its alignment.
func TestTwins(t *testing.T) {
	for _, k := range twins()[1:] {
		t.Run(k.name, func(t *testing.T) {
			for _, from := range floats {
				for _, n := range []int{1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 96, 127, 160, 321, 32 * 32, 70 * 32} {
					seeds := uint64(3)
					if n > 1000 {
						seeds = 1 // enough values already
					}
					for seed := range seeds {
						for name, row := range adversaries(seed, from, n) {
							if msg := compareTwin(k, row, from); msg != "" {
								t.Fatalf("%s, %d elements of %s, seed %d: %s", name, n, from, seed, msg)
							}
						}
					}
				}
			}
		})
	}
}

// TestTwinsDivision holds that int8's quotients are those of a division, where
// it decides: at x / scale = k + 1/2, and one F32 beside it on both sides.
func TestTwinsDivision(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		exponent := uint32(r.IntN(127+121-104)+104) << 23 // from 2⁻²³, the least, to 2¹²¹
		scale := math.Float32frombits(exponent | r.Uint32()&0x7fffff)
		var row []byte
		for k := range 255 {
			tie := math.Float32bits(float32(float64(scale) * (float64(k-127) - 0.5)))
			for _, bits := range []uint32{tie - 1, tie, tie + 1} {
				row = binary.LittleEndian.AppendUint32(row, bits)
			}
		}
		for _, k := range twins()[1:] {
			if msg := differ(len(row)/4, "int8", func(k kernels, dst []byte) {
				k.int8(dst, row, dtype.F32, scale)
			}, k); msg != "" {
				t.Fatalf("%s: scale %g: %s", k.name, scale, msg)
			}
		}
	}
}

// TestTwinsEvery16 tries every 16-bit value of both formats.
func TestTwinsEvery16(t *testing.T) {
	var all []byte
	for i := range 1 << 16 {
		all = binary.LittleEndian.AppendUint16(all, uint16(i))
	}
	for _, k := range twins()[1:] {
		for _, from := range []dtype.Type{dtype.F16, dtype.BF16} {
			if msg := compareTwin(k, all, from); msg != "" {
				t.Errorf("%s from %s: %s", k.name, from, msg)
			}
		}
	}
}

// TestTwinsStream holds that casts to what is written past the caches give the
// oracle's bytes, wherever the destination begins.
func TestTwinsStream(t *testing.T) {
	const elements = 160<<10 + 7
	for _, from := range floats {
		row := randomFloats(5, from, elements)
		for _, to := range floats[:3] {
			if to == from {
				continue
			}
			want, room := make([]byte, elements*to.Size()), make([]byte, elements*to.Size()+256)
			portable.cast(want, row, to, from)
			for _, at := range []int{0, 1, 2, 4, 32, 62, 64} {
				for _, k := range twins()[1:] {
					clear(room)
					got := room[128+at:][:len(want)]
					k.cast(got, row, to, from)
					if !bytes.Equal(got, want) || firstDiff(room[:128+at], make([]byte, 128+at)) >= 0 || room[128+at+len(want)] != 0 {
						t.Errorf("%s: %s to %s at %d differs", k.name, from, to, at)
					}
				}
			}
		}
	}
}

func FuzzTwins(f *testing.F) {
	for i, from := range floats {
		for _, row := range adversaries(9, from, 67) {
			f.Add(byte(i), row)
		}
	}
	f.Fuzz(func(t *testing.T, pick byte, row []byte) {
		from := floats[int(pick)%len(floats)]
		row = row[:len(row)/from.Size()*from.Size()]
		for _, k := range twins()[1:] {
			for _, row := range [][]byte{row, repeated(row, from)} {
				if msg := compareTwin(k, row, from); msg != "" {
					t.Fatalf("%s from %s: %s", k.name, from, msg)
				}
			}
		}
	})
}

// repeated returns row as often as it takes to fill the longest turn of any
// loop twice.
func repeated(row []byte, from dtype.Type) []byte {
	const values = 2 * 1024
	if len(row) == 0 {
		return row
	}
	return bytes.Repeat(row, (values*from.Size()+len(row)-1)/len(row))
}

// compareTwin runs every loop of k and of the oracle over row, at an odd
// address, and says where they differ.
func compareTwin(k kernels, row []byte, from dtype.Type) string {
	n := len(row) / from.Size()
	src := append(make([]byte, 1, len(row)+1), row...)[1:]
	for _, to := range floats[:3] {
		if to == from {
			continue
		}
		if msg := differ(n*to.Size(), "cast to "+to.String(), func(k kernels, dst []byte) {
			k.cast(dst, src, to, from)
		}, k); msg != "" {
			return msg
		}
	}
	blocks := n / q8Block
	if msg := differ(blocks*q8Bytes, "q8", func(k kernels, dst []byte) {
		k.q8(dst, src[:blocks*q8Block*from.Size()], from)
	}, k); msg != "" {
		return msg
	}
	for _, s := range twinSchemes {
		if msg := differScheme(s, k, src, from, n); msg != "" {
			return msg
		}
	}
	most := portable.absmax(src, from)
	if got := k.absmax(src, from); got != most && min(got, most) <= infBits {
		return "absmax is " + hex(got) + ", not " + hex(most)
	}
	if most >= infBits {
		return ""
	}
	return differ(n, "int8", func(k kernels, dst []byte) {
		k.int8(dst, src, from, int8Scale(most))
	}, k)
}

// twinSchemes are those that have kernels of their own beyond casts and int8.
var twinSchemes = []Scheme{
	q4_0{}, q4_1{}, q5_0{}, q5_1{}, nf4{}, mxfp4{}, q2K{}, q3K{}, q4K{}, q5K{}, q6K{},
	fp8{dtype.F8E4M3}, fp8{dtype.F8E5M2},
	packed{name: "int4", bits: 4, symmetric: true, group: 128},
	custom{packed{bits: 4, group: 32}},
	nbits{bits: 4, block: nbitsBlock, symmetric: true},
	nbits{bits: 8, block: nbitsBlock, symmetric: true},
}

// differScheme encodes what divides of n elements, as one row, with the oracle
// and with k.
func differScheme(s Scheme, k kernels, src []byte, from dtype.Type, n int) string {
	l, err := s.Layout(from, 0)
	if err != nil {
		return err.Error()
	}
	cols := n / int(l.Align) * int(l.Align)
	if l, err = s.Layout(from, int64(cols)); err != nil { // a row of several groups
		cols = n / superLen * superLen
		if l, err = s.Layout(from, int64(cols)); err != nil {
			return err.Error()
		}
	}
	sizes, total := make([]int, len(l.Planes)), 0
	for i, p := range l.Planes {
		sizes[i] = int(p.RowBytes(int64(cols)))
		total += sizes[i]
	}
	return differ(total, s.Name(), func(k kernels, dst []byte) {
		defer func(before kernels) { kernel = before }(kernel)
		kernel = k
		var planes [][]byte
		for _, n := range sizes {
			planes, dst = append(planes, dst[:n:n]), dst[n:]
		}
		s.Encode(planes, src, from, 1, cols)
	}, k)
}

// differ runs loop with the oracle and with k into n bytes and says where the
// bytes differ, or the guard behind them.
func differ(n int, what string, loop func(k kernels, dst []byte), k kernels) string {
	const guard = 64
	want, got := make([]byte, n+1+guard), make([]byte, n+1+guard)
	loop(portable, want[1:1+n])
	loop(k, got[1:1+n])
	if i := firstDiff(got, want); i >= 0 {
		return what + " differs at byte " + hex(uint32(i-1)) + " of " + hex(uint32(n))
	}
	return ""
}
