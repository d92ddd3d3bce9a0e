package quant

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// TestReadBlocks holds the types that no scheme writes against what ggml's
// reference reads from the same blocks.
func TestReadBlocks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "blocks", "*.bin"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		t.Run(name, func(t *testing.T) {
			typ, err := dtype.Parse(strings.ToUpper(name))
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".bin") + ".f32")
			if err != nil {
				t.Fatal(err)
			}
			if !Decodes(typ) {
				t.Fatalf("%s is not decoded", typ)
			}
			got := make([]float32, len(want)/4)
			Decode(got, blocks, typ)
			if i := firstDiff(f32Bytes(got...), want); i >= 0 {
				t.Fatalf("value %d is %g, the reference has %g", i/4, got[i/4], math.Float32frombits(binary.LittleEndian.Uint32(want[i/4*4:])))
			}
		})
	}
}

// TestDecode holds that a stored block reads as the scheme that writes it does,
// and what no reader knows as NaN.
func TestDecode(t *testing.T) {
	for _, g := range goldens(t) {
		typ, err := dtype.Parse(strings.ToUpper(g.Type))
		if err != nil {
			t.Fatal(err)
		}
		if g.Input != "normal0" {
			continue
		}
		got := make([]float32, g.N)
		Decode(got, readGolden(t, g.Bytes), typ)
		if i := firstDiff(f32Bytes(got...), readGolden(t, g.Dequant)); i >= 0 || !Decodes(typ) {
			t.Errorf("%s: value %d differs from the reference", typ, i/4)
		}
	}
	for typ := dtype.Bool; typ <= dtype.NVFP4; typ++ {
		if typ.Quantized() && !Decodes(typ) {
			t.Errorf("blocks of %s are not decoded", typ)
		}
	}
	for _, typ := range []dtype.Type{dtype.I8, dtype.U8, dtype.Bool, dtype.Invalid} {
		got := []float32{1, 2}
		if Decode(got, make([]byte, 16), typ); Decodes(typ) || got[0] == got[0] || got[1] == got[1] {
			t.Errorf("%s reads as %g", typ, got)
		}
	}
	// Q8_1 has no reader in ggml: by its definition, d × q.
	block, values := make([]byte, 36), make([]float32, 32)
	putHalf(block, 0.5)
	block[4], block[35] = 0xff, 6
	if Decode(values, block, dtype.Q8_1); values[0] != -0.5 || values[1] != 0 || values[31] != 3 {
		t.Errorf("q8_1 reads as %g", values)
	}
}

// TestNVFP4Scales holds every scale against the reference's definition: 0 and
// 0x7f are 0, the rest (1 + mantissa/8) × 2^(exponent-7), or mantissa × 2^-9
// with an exponent of 0, whatever the sign (ggml_ue4m3_to_fp32, which halves
// it for levels that are doubled).
func TestNVFP4Scales(t *testing.T) {
	for b := range 256 {
		block, values := make([]byte, 36), make([]float32, 64)
		for i := range 4 {
			block[i] = byte(b)
		}
		for i := range 32 {
			block[4+i] = 0x22 // 1, which is 2 doubled
		}
		exponent, mantissa := b>>3&15, float64(b&7)
		want := math.Ldexp(1+mantissa/8, exponent-7)
		switch {
		case b == 0 || b == 0x7f:
			want = 0
		case exponent == 0:
			want = math.Ldexp(mantissa, -9)
		}
		Decode(values, block, dtype.NVFP4)
		for i, v := range values {
			if v != float32(want) {
				t.Fatalf("scale %#02x: value %d is %g, want %g", b, i, v, want)
			}
		}
	}
}
