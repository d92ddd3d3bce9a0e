package quant

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// testdata returns the folder of golden vectors: GANTRY_TESTDATA/quant, or
// the first shared/testdata/quant beside a parent of this folder.
func testdata(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("GANTRY_TESTDATA"); dir != "" {
		return filepath.Join(dir, "quant")
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		found := filepath.Join(dir, "shared", "testdata", "quant")
		if _, err := os.Stat(filepath.Join(found, "manifest.json")); err == nil {
			return found
		}
	}
	t.Fatal("no shared/testdata above this folder: set GANTRY_TESTDATA to the folder that holds quant/manifest.json")
	return ""
}

// golden is one vector: what ggml's reference made of an input of n F32, one
// row, and what it decoded that to.
type golden struct {
	Input   string `json:"input"`
	Type    string `json:"type"`
	N       int    `json:"n"`
	Bytes   string `json:"bytes"`
	Dequant string `json:"dequant"`
}

// goldens returns the vectors of the schemes that there are.
func goldens(t testing.TB) []golden {
	t.Helper()
	var all []golden
	if err := json.Unmarshal(readGolden(t, "manifest.json"), &all); err != nil {
		t.Fatal(err)
	}
	var known []golden
	for _, g := range all {
		if _, err := Parse(g.Type); err == nil {
			known = append(known, g)
		}
	}
	if len(known) == 0 {
		t.Fatal("the manifest has no vector of any scheme")
	}
	return known
}

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden holds that every scheme that ggml has equals its reference, byte
// for byte on every kernel, and decodes to its floats.
func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		eachTwin(t, g.Input+"/"+g.Type, func(t *testing.T) {
			s, err := Parse(g.Type)
			if err != nil {
				t.Fatal(err)
			}
			src := readGolden(t, g.Input+".f32")
			got := encode(t, s, src, dtype.F32, 1, g.N)
			want, dequant := readGolden(t, g.Bytes), readGolden(t, g.Dequant)
			if g.Type == "iq4_nl" {
				setUnset(src, want, dequant)
			}
			if i := firstDiff(got[0], want); i >= 0 {
				t.Fatalf("encoded byte %d differs from the reference", i)
			}
			dec := make([]float32, g.N)
			s.Decode(dec, got, dtype.F32, 1, g.N)
			if i := firstDiff(f32Bytes(dec...), dequant); i >= 0 {
				t.Fatalf("decoded value %d differs from the reference: %g", i/4, dec[i/4])
			}
		})
	}
}

// setUnset gives the blocks of zeros in an iq4_nl vector the bytes that today's
// reference gives them. The release that made the vectors left their levels
// unset: they are what lay in memory, times a scale of 0.
func setUnset(src, blocks, dequant []byte) {
	for i := range len(blocks) / iq4Bytes {
		var x [blockLen]float32
		loadBlock(&x, src, i, dtype.F32)
		if _, most := signedMax(x[:]); most >= groupEpsilon {
			continue
		}
		clear(blocks[i*iq4Bytes:][:iq4Bytes])
		for j := range blockLen {
			copy(dequant[4*(i*blockLen+j):], f32Bytes(float32(math.Copysign(0, -1))))
		}
	}
}

// eachTwin runs test once for every kernel of this machine.
func eachTwin(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	best := kernel
	defer func() { kernel = best }()
	for _, k := range twins() {
		kernel = k
		t.Run(name+"/"+k.name, test)
	}
}

// encode returns the planes of rows × cols elements, with guard bytes behind
// each to catch a kernel that writes too far.
func encode(t testing.TB, s Scheme, src []byte, from dtype.Type, rows, cols int) [][]byte {
	t.Helper()
	l, err := s.Layout(from, int64(cols))
	if err != nil {
		t.Fatal(err)
	}
	const guard = 64
	planes := make([][]byte, len(l.Planes))
	for i, p := range l.Planes {
		n := rows * int(p.RowBytes(int64(cols)))
		b := bytes.Repeat([]byte{0xa5}, n+guard)
		planes[i] = b[:n]
	}
	s.Encode(planes, src, from, rows, cols)
	for i, p := range planes {
		for _, b := range p[len(p) : len(p)+guard] {
			if b != 0xa5 {
				t.Fatalf("plane %d was written beyond its end", i)
			}
		}
	}
	return planes
}

func firstDiff(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func f32Bytes(f ...float32) []byte {
	var b []byte
	for _, x := range f {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}
