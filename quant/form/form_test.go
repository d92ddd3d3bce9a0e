package form

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/dtype"
)

// whole gives Read all bytes of every part.
func whole(parts ...[]byte) (all []Slab) {
	for _, p := range parts {
		all = append(all, Slab{Data: p})
	}
	return all
}

// f32 returns little-endian F32 as values.
func f32(b []byte) (x []float32) {
	for ; len(b) > 0; b = b[4:] {
		x = append(x, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return x
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name       string
		stored     dtype.Type
		rows, cols int64
	}{
		{"x", dtype.F32, 8, 8},
		{"interleaved", dtype.F32, 8, 8},
		{"interleaved:3", dtype.F32, 9, 8},
		{"interleaved:0", dtype.F32, 8, 8},
		{"interleaved:-2", dtype.F32, 8, 8},
		{"interleaved:4", dtype.F32, 6, 8},
		{"interleaved:4", dtype.Q8_0, 8, 33},
		{"interleaved:99999999999", dtype.F32, 8, 8},
		{"plus:x", dtype.F32, 8, 8},
		{"plus:inf", dtype.F32, 8, 8},
		{"plus:1", dtype.Q8_0, 8, 32},
		{"scaled:rows=1", dtype.I8, 8, 8},
		{"scaled:scale=I8", dtype.I8, 8, 8},
		{"scaled:scale=F16,x=1", dtype.I8, 8, 8},
		{"scaled:scale=F16,scale=F16", dtype.I8, 8, 8},
		{"scaled:scale=F16", dtype.F16, 8, 8},
		{"scaled:scale=F16,rows=-1", dtype.I8, 8, 8},
		{"words:bits=9,groups=1,scale=F16", dtype.I32, 8, 8},
		{"words:bits=4,groups=1,scale=F16,tight=1", dtype.I32, 8, 8},
		{"words:bits=4,groups=3,scale=F16", dtype.I32, 8, 8},
		{"words:bits=4,groups=1,scale=F16", dtype.U8, 8, 8},
		{"mxfp4", dtype.U8, 8, 16},
		{"float8", dtype.I8, 8, 8},
		{"float8:x=1", dtype.F8E4M3, 8, 8},
		{"nvfp4", dtype.I8, 8, 16},
		{"bnb4:block=64", dtype.U8, 8, 7},
		{"bnb4:", dtype.U8, 8, 8},
		{"bnb4:block=64", dtype.I32, 8, 8},
		{"gptq:bits=4,group=8,scale=F16,plus=2", dtype.I32, 8, 8},
		{"awq:bits=8,group=8,scale=F16", dtype.I32, 8, 8},
		{"awq:bits=4,group=8,scale=F16", dtype.I32, 9, 8},
		{"awq:bits=4,group=8,scale=F16", dtype.I32, 1 << 40, 1 << 40},
	} {
		if f, err := Open(c.name, c.stored, c.rows, c.cols); err == nil {
			t.Errorf("%s of %d×%d %s: %+v", c.name, c.rows, c.cols, c.stored, f)
		}
	}
	if f, err := Open("", dtype.F32, 8, 8); f != nil || err != nil {
		t.Errorf("plain rows: %v, %v", f, err)
	}
}

// TestInterleaved holds the order against the converter's: reshape to [heads,
// 2, head/2, cols], swap axes 1 and 2.
func TestInterleaved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		heads, half, cols := rapid.Int64Range(1, 5).Draw(t, "heads"), rapid.Int64Range(1, 6).Draw(t, "half"), rapid.Int64Range(1, 3).Draw(t, "cols")
		rows := heads * 2 * half
		want := rapid.SliceOfN(rapid.Byte(), int(2*rows*cols), int(2*rows*cols)).Draw(t, "bytes")
		var stored []byte
		for h := range heads {
			for i := range half {
				for p := range int64(2) {
					r := h*2*half + p*half + i
					stored = append(stored, want[2*r*cols:2*(r+1)*cols]...)
				}
			}
		}
		f, err := Open(Interleaved(2*half), dtype.F16, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		// Any rows, of a slab that begins with the first one's head.
		start := rapid.Int64Range(0, rows-1).Draw(t, "start")
		r := Range{start, rapid.Int64Range(start, rows).Draw(t, "stop")}
		part := f.Parts()[0]
		units := part.Range(r, Range{0, cols})
		slab := Slab{Data: stored[units.Start*part.Unit : units.Stop*part.Unit], First: units.Start}
		got := make([]byte, 2*r.Len()*cols)
		if f.Read(got, []Slab{slab}, r, Range{0, cols}); !bytes.Equal(got, want[2*r.Start*cols:2*r.Stop*cols]) || f.Type() != dtype.F16 {
			t.Fatalf("rows %v of %d heads of %d: %v of %v", r, heads, 2*half, got, want)
		}
	})
}

func TestPlus(t *testing.T) {
	for typ, stored := range map[dtype.Type][]byte{
		dtype.F32:  {0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0, 0xc0, 0xbf},
		dtype.F16:  {0, 0x3c, 0, 0x40, 0, 0xbe},
		dtype.BF16: {0x80, 0x3f, 0, 0x40, 0xc0, 0xbf},
	} {
		f, err := Open(Plus(1), typ, 3, 1)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 12)
		f.Read(got, whole(stored), Range{0, 3}, Range{0, 1})
		if want := []float32{0, 1, -2.5}; !slices.Equal(f32(got), want) || f.Type() != dtype.F32 {
			t.Errorf("%s: %v, want %v", typ, f32(got), want)
		}
	}
}

// FuzzOpen: no name makes a form whose parts do not add up, and none panics
// when all of it is read.
func FuzzOpen(f *testing.F) {
	for _, name := range []string{"interleaved:4", "plus:1", "plus:-0.5"} {
		f.Add(name, uint8(dtype.F32), uint16(8), uint16(8))
	}
	for name, stored := range map[string]dtype.Type{
		"scaled:scale=F16,rows=1": dtype.I8, "scaled:scale=F32,rows=128,cols=128": dtype.F8E4M3, "scaled:scale=BF16,cols=3,zero=1": dtype.I8,
		"words:bits=4,groups=2,scale=F16,zero=1,index=1": dtype.I32, "words:bits=3,groups=2,scale=F16,zero=1,tight=1": dtype.I32, "words:bits=5,groups=2,scale=F16,zero=1": dtype.I32, "mxfp4:": dtype.U8, "mxfp4": dtype.U8, "nvfp4": dtype.U8,
		"float8": dtype.F8E5M2, "bnb4:block=64,nested=256,offset=0.5": dtype.U8, "gptq:bits=4,group=32,scale=F16,plus=1,index=1": dtype.I32, "awq:bits=4,group=32,scale=F16": dtype.I32,
		"gptq:bits=3,group=32,scale=F16": dtype.I32, "awq_gemv:group=64,scale=F16": dtype.I32, "nvfp4:times": dtype.U8,
	} {
		f.Add(name, uint8(stored), uint16(64), uint16(64))
	}
	f.Fuzz(func(t *testing.T, name string, stored uint8, rows, cols uint16) {
		r, c := int64(rows%256), int64(cols%512)
		form, err := Open(name, dtype.Type(stored), r, c)
		if form == nil || err != nil {
			return
		}
		var parts [][]byte
		for _, p := range form.Parts() {
			if p.Per < 1 || p.Unit < 0 || p.Units < 0 || p.Bytes() > 1<<26 {
				t.Fatalf("%s of %d×%d: part %+v", name, r, c, p)
			}
			parts = append(parts, make([]byte, p.Bytes()))
		}
		size, err := form.Type().Bytes(r * c)
		if err != nil {
			t.Fatal(err)
		}
		form.Read(make([]byte, size), whole(parts...), Range{0, r}, Range{0, c})
	})
}
