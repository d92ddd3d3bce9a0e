package model_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
)

// Decoders of exported files, written from the published definitions alone:
// compressed-tensors' compressors (naive_quantized, pack_quantized, nvfp4) and
// bitsandbytes' functional.py. They know what config.json says, and nothing of
// this project's schemes.

// published is an exported folder.
type published struct {
	t       *testing.T
	tensors map[string]checkpoint.Tensor
	file    []byte
	config  struct {
		Groups map[string]struct {
			Targets []string
			Format  string
			Weights struct {
				Bits      int    `json:"num_bits"`
				Type      string `json:"type"`
				Symmetric bool   `json:"symmetric"`
				Strategy  string `json:"strategy"`
				Group     *int   `json:"group_size"`
			}
		} `json:"config_groups"`
		Method string `json:"quant_method"`
		Format string
		Ignore []string
		Skip   []string `json:"llm_int8_skip_modules"`
		Type   string   `json:"bnb_4bit_quant_type"`
	}
}

func readPublished(t *testing.T, dir string) *published {
	t.Helper()
	p := &published{t: t, tensors: map[string]checkpoint.Tensor{}}
	ix := index(t, dir)
	for _, x := range ix.Tensors {
		p.tensors[x.Name] = x
	}
	var err error
	if p.file, err = os.ReadFile(filepath.Join(dir, ix.Files[0].Name)); err != nil {
		t.Fatal(err)
	}
	config := struct {
		Quant json.RawMessage `json:"quantization_config"`
	}{}
	if err := json.Unmarshal(ix.Config, &config); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(config.Quant, &p.config); err != nil {
		t.Fatalf("quantization_config: %v", err)
	}
	return p
}

// bytes returns a tensor's bytes and fails where it is of another type.
func (p *published) bytes(name string, want dtype.Type) ([]byte, []int64) {
	p.t.Helper()
	x, ok := p.tensors[name]
	if !ok || x.DType != want {
		p.t.Fatalf("%s is %s of %v, want %s", name, x.DType, x.Shape, want)
	}
	return p.file[x.Offset : x.Offset+x.Bytes], x.Shape
}

func (p *published) floats(name string) ([]float32, []int64) {
	p.t.Helper()
	b, shape := p.bytes(name, dtype.F32)
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out, shape
}

// group returns the config group of a module.
func (p *published) group(module string) (format string, bits int, symmetric bool, group int, ok bool) {
	if slices.Contains(p.config.Ignore, module) {
		return "", 0, false, 0, false
	}
	for _, g := range p.config.Groups {
		if slices.Contains(g.Targets, module) || slices.Contains(g.Targets, "Linear") {
			w := g.Weights
			if w.Group != nil {
				group = *w.Group
			}
			if (w.Type == "float") != (g.Format == "float-quantized" || g.Format == "nvfp4-pack-quantized") {
				p.t.Errorf("%s: type %s of format %s", module, w.Type, g.Format)
			}
			return g.Format, w.Bits, w.Symmetric, group, true
		}
	}
	return "", 0, false, 0, false
}

// weight decodes the weight of a module into rows × cols values; false where
// it is not quantized.
func (p *published) weight(module string) ([]float32, bool) {
	p.t.Helper()
	if p.config.Method == "bitsandbytes" {
		if slices.Contains(p.config.Skip, module) {
			return nil, false
		}
		return p.bitsAndBytes(module), true
	}
	format, bits, symmetric, group, ok := p.group(module)
	if !ok {
		return nil, false
	}
	switch format {
	case "int-quantized":
		q, shape := p.bytes(module+".weight", dtype.I8)
		return p.scaled(module, shape, group, func(i int) float32 { return float32(int8(q[i])) }), true
	case "float-quantized":
		if p.tensors[module+".weight"].DType == dtype.F8E5M2 { // which no config.json can say
			q, shape := p.bytes(module+".weight", dtype.F8E5M2)
			return p.scaled(module, shape, group, func(i int) float32 { return e5m2(q[i]) }), true
		}
		q, shape := p.bytes(module+".weight", dtype.F8E4M3)
		return p.scaled(module, shape, group, func(i int) float32 { return e4m3(q[i]) }), true
	case "pack-quantized":
		return p.packed(module, bits, symmetric, group), true
	case "nvfp4-pack-quantized":
		return p.nvfp4(module), true
	}
	p.t.Fatalf("%s has the format %q", module, format)
	return nil, false
}

// scaled multiplies codes by weight_scale, which is by tensor, row or group.
func (p *published) scaled(module string, shape []int64, group int, code func(i int) float32) []float32 {
	p.t.Helper()
	scales, has := p.floats(module + ".weight_scale")
	rows, cols := int(shape[0]), int(shape[1])
	if group == 0 || group > cols {
		group = cols
	}
	if len(scales) == 1 && slices.Equal(has, []int64{1}) {
		scales = slices.Repeat(scales, rows)
	} else if want := []int64{int64(rows), int64(cols / group)}; !slices.Equal(has, want) {
		p.t.Fatalf("%s: scales %v, want %v", module, has, want)
	}
	out := make([]float32, rows*cols)
	for i := range out {
		out[i] = code(i) * scales[i/cols*(cols/group)+i%cols/group]
	}
	return out
}

// e4m3 reads an OFP8 E4M3 by its fields.
func e4m3(b byte) float32 {
	e, m := int(b>>3&15), float64(b&7)
	v := math.Ldexp(1+m/8, e-7)
	switch {
	case b&0x7f == 0x7f:
		v = math.NaN()
	case e == 0:
		v = math.Ldexp(m/8, -6)
	}
	if b >= 0x80 {
		v = -v
	}
	return float32(v)
}

// e5m2 reads an OFP8 E5M2 by its fields.
func e5m2(b byte) float32 {
	e, m := int(b>>2&31), float64(b&3)
	v := math.Ldexp(1+m/4, e-15)
	switch {
	case e == 31:
		v = math.NaN() // or an infinity, which no test has
	case e == 0:
		v = math.Ldexp(m/4, -14)
	}
	if b >= 0x80 {
		v = -v
	}
	return float32(v)
}

// bitsOf reads bits bits of words from bit at on, each bit of word i × stride.
func bitsOf(words []byte, at, bits, offset, stride int) (v int) {
	for b := range bits {
		bit := at + b
		w := binary.LittleEndian.Uint32(words[4*(offset+bit/32*stride):])
		v |= int(w>>(bit%32)&1) << b
	}
	return v
}

func (p *published) packed(module string, bits int, symmetric bool, group int) []float32 {
	p.t.Helper()
	dims, _ := p.bytes(module+".weight_shape", dtype.I64)
	shape := []int64{int64(binary.LittleEndian.Uint64(dims)), int64(binary.LittleEndian.Uint64(dims[8:]))}
	words, has := p.bytes(module+".weight_packed", dtype.I32)
	rows, cols := int(shape[0]), int(shape[1])
	perRow := (cols*bits + 31) / 32
	if !slices.Equal(has, []int64{shape[0], int64(perRow)}) {
		p.t.Fatalf("%s: weight_packed is %v for %v of %d bits", module, has, shape, bits)
	}
	groups := 1
	if group > 0 && group < cols {
		groups = cols / group
	}
	zero := func(int, int) int { return 0 }
	if _, ok := p.tensors[module+".weight_zero_point"]; ok == symmetric {
		p.t.Fatalf("%s: symmetric is %v, zero points are there: %v", module, symmetric, ok)
	} else if ok {
		zeros, has := p.bytes(module+".weight_zero_point", dtype.I32)
		if want := []int64{int64((rows*bits + 31) / 32), int64(groups)}; !slices.Equal(has, want) {
			p.t.Fatalf("%s: zero points %v, want %v", module, has, want)
		}
		zero = func(r, g int) int { return bitsOf(zeros, r*bits, bits, g, groups) - 1<<(bits-1) }
	}
	return p.scaled(module, shape, group, func(i int) float32 {
		r, c := i/cols, i%cols
		q := bitsOf(words, c*bits, bits, r*perRow, 1) - 1<<(bits-1)
		return float32(q - zero(r, c*groups/cols))
	})
}

func (p *published) nvfp4(module string) []float32 {
	p.t.Helper()
	codes, has := p.bytes(module+".weight_packed", dtype.U8)
	scales, _ := p.bytes(module+".weight_scale", dtype.F8E4M3)
	global, one := p.floats(module + ".weight_global_scale")
	if len(scales) != int(has[0]*has[1]/8) || !slices.Equal(one, []int64{1}) {
		p.t.Fatalf("%s: codes %v, %d scales, global scale %v", module, has, len(scales), one)
	}
	magnitudes := [8]float32{0, .5, 1, 1.5, 2, 3, 4, 6}
	out := make([]float32, 2*len(codes))
	for i := range out {
		q := codes[i/2] >> (i % 2 * 4) & 15
		v := magnitudes[q&7]
		if q >= 8 {
			v = -v
		}
		out[i] = v * (e4m3(scales[i/16]) / global[0])
	}
	return out
}

func (p *published) bitsAndBytes(module string) []float32 {
	p.t.Helper()
	name := module + ".weight"
	codes, has := p.bytes(name, dtype.U8)
	absmax, blocks := p.floats(name + ".absmax")
	levels, _ := p.floats(name + ".quant_map")
	raw, _ := p.bytes(name+".quant_state.bitsandbytes__nf4", dtype.U8)
	var state struct {
		Type  string `json:"quant_type"`
		Block int    `json:"blocksize"`
		DType string `json:"dtype"`
		Shape []int  `json:"shape"`
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		p.t.Fatal(err)
	}
	n := state.Shape[0] * state.Shape[1]
	if state.Type != "nf4" || state.Block != 64 || state.DType != "bfloat16" || len(levels) != 16 || levels[7] != 0 || levels[0] != -1 ||
		!slices.Equal(has, []int64{int64(n / 2), 1}) || !slices.Equal(blocks, []int64{int64(n / 64)}) {
		p.t.Fatalf("%s: %v codes, %v absmax, state %s", module, has, blocks, raw)
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = levels[codes[i/2]>>(4-i%2*4)&15] * absmax[i/state.Block]
	}
	return out
}
