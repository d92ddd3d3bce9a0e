package loader

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// spoiled is a copy of stories260K with values that are not finite: a NaN and
// an infinity in one row of a projection that is cut by rows, two NaN in one
// row of a down projection, one in each half of the row, and an infinity in a
// norm, which every rank holds.
func spoiled(t *testing.T) string {
	dir := copyOf(t, filepath.Join(testdata(t, "stories260K"), "hf-f32"))
	_, ix := open(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, x := range []struct {
		tensor  string
		element int64
		value   float32
	}{
		{gate, 2*64 + 3, nan}, {gate, 2*64 + 40, inf}, // row 2: in the first half of 172
		{"model.layers.1.mlp.down_proj.weight", 5*172 + 7, nan},
		{"model.layers.1.mlp.down_proj.weight", 5*172 + 165, nan},
		{"model.layers.4.input_layernorm.weight", 9, inf},
	} {
		if _, err := f.WriteAt(bytesOf([]float32{x.value}), find(t, ix, x.tensor).Offset+4*x.element); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestNonFinite: what was stored is counted whatever becomes of it, what is
// placed as the scheme's documentation says, each in one copy; a rank counts
// what it owns.
func TestNonFinite(t *testing.T) {
	dir := spoiled(t)
	for _, c := range []struct {
		scheme string
		placed dtype.NonFinite
		ranks  [2]dtype.NonFinite // with tp 2
	}{
		{"none", dtype.NonFinite{NaN: 3, Inf: 2}, [2]dtype.NonFinite{{NaN: 2, Inf: 2}, {NaN: 1, Inf: 1}}},
		{"bf16", dtype.NonFinite{NaN: 3, Inf: 2}, [2]dtype.NonFinite{{NaN: 2, Inf: 2}, {NaN: 1, Inf: 1}}},
		// A row each.
		{"int8", dtype.NonFinite{NaN: 64 + 172, Inf: 1}, [2]dtype.NonFinite{{NaN: 64 + 86, Inf: 1}, {NaN: 86, Inf: 1}}},
		// Both blocks of the first row; the other, of 172, is F16.
		{"q8_0", dtype.NonFinite{NaN: 32 + 32 + 2, Inf: 1}, [2]dtype.NonFinite{{NaN: 64 + 1, Inf: 1}, {NaN: 1, Inf: 1}}},
	} {
		for _, tp := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/tp%d", c.scheme, tp), func(t *testing.T) {
				m := load(t, dir, WithValidate(true), WithQuantization(quant.Config{Scheme: c.scheme}), WithLayout(shard.Layout{TP: tp}))
				stored, placed, ok := m.Report().NonFinite()
				if want := (dtype.NonFinite{NaN: 3, Inf: 2}); !ok || stored != want || placed != c.placed {
					t.Errorf("stored %+v, placed %+v, %t; want %+v and %+v", stored, placed, ok, want, c.placed)
				}
				if tp == 1 {
					return
				}
				for i, r := range m.Ranks() {
					v := r.Validation
					if v.Placed.All != c.ranks[i] {
						t.Errorf("rank %d placed %+v, want %+v", i, v.Placed.All, c.ranks[i])
					}
					if want := ([2]dtype.NonFinite{{NaN: 2, Inf: 2}, {NaN: 1, Inf: 1}})[i]; v.Stored.All != want {
						t.Errorf("rank %d stored %+v, want %+v", i, v.Stored.All, want)
					}
				}
			})
		}
	}
	m := load(t, dir)
	if _, _, ok := m.Report().NonFinite(); ok {
		t.Error("values are counted though nobody asked")
	}
}

// TestNonFiniteTravels: counts go with the pieces that other nodes read, and
// are not lost or doubled where a chunk is loaded again.
func TestNonFiniteTravels(t *testing.T) {
	dir := spoiled(t)
	_, ix := open(t, dir)
	plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4, DP: 2}, Scheme: "int8", ChunkBytes: 64 << 10})
	m := newTeam(t, dir, plan, 3, NodeOptions{Staging: 2 << 20})
	m.chunks(t.Context())
	var stored, placed dtype.Tally
	for r, s := range m.load(t.Context()) { // every chunk once more
		v := s.Validation
		stored, placed = stored.Plus(v.Stored), placed.Plus(v.Placed)
		if twin := r % 4; twin == 0 && v.Stored.All != (dtype.NonFinite{NaN: 2, Inf: 2}) || r >= 4 && v.Stored.Once != (dtype.NonFinite{}) {
			t.Errorf("rank %d: %+v", r, v.Stored)
		}
	}
	if want := (dtype.NonFinite{NaN: 3, Inf: 2}); stored.Once != want {
		t.Errorf("stored %+v, want %+v", stored.Once, want)
	}
	if want := (dtype.NonFinite{NaN: 64 + 172, Inf: 1}); placed.Once != want {
		t.Errorf("placed %+v, want %+v", placed.Once, want)
	}
	// All eight ranks hold the norm, both copies the rest.
	if want := (dtype.NonFinite{NaN: 6, Inf: 2 + 8}); stored.All != want {
		t.Errorf("stored in all ranks %+v, want %+v", stored.All, want)
	}
}

// TestNonFinite8Bits: 8-bit floats are counted alike where they are cast and
// where they stay as they are stored.
func TestNonFinite8Bits(t *testing.T) {
	for typ, c := range map[dtype.Type]struct {
		rows []byte // each over and over
		want dtype.NonFinite
	}{
		dtype.F8E4M3:     {[]byte{0x7f, 0x7e, 0xff, 0x80}, dtype.NonFinite{NaN: 2 * hidden}},
		dtype.F8E5M2:     {[]byte{0x7c, 0x7b, 0xff, 0x80}, dtype.NonFinite{NaN: hidden, Inf: hidden}},
		dtype.F8E4M3FNUZ: {[]byte{0x80, 0x7f, 0xff, 0}, dtype.NonFinite{NaN: hidden}},
		dtype.F8E5M2FNUZ: {[]byte{0x80, 0x7f, 0xff, 0x7c}, dtype.NonFinite{NaN: hidden}},
		dtype.F8E8M0:     {[]byte{0xff, 0, 0x7f, 0x80}, dtype.NonFinite{NaN: hidden}},
	} {
		f := newPackedFolder(11)
		f.put("model.layers.0.mlp.up_proj.weight", typ, bytes.Repeat(c.rows, hidden), 4, hidden)
		dir := f.write(t, "null")
		for _, scheme := range []string{"none", "f32"} {
			for _, tp := range []int{1, 2} {
				m := load(t, dir, WithValidate(true), WithQuantization(quant.Config{Scheme: scheme}), WithLayout(shard.Layout{TP: tp}))
				if stored, placed, ok := m.Report().NonFinite(); !ok || stored != c.want || placed != c.want {
					t.Errorf("%s, %s, tp %d: stored %+v, placed %+v, want %+v", typ, scheme, tp, stored, placed, c.want)
				}
			}
		}
	}
}
