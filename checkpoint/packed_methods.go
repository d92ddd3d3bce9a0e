package checkpoint

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
)

// The definitions of what is recognised here are cited in quant/form.

// weightSuffix is what a weight's name ends with.
const weightSuffix = ".weight"

// compressed is compressed-tensors' pack-quantized and nvfp4-pack-quantized.
func (p *packer) compressed(base string, t *Tensor) (Packed, error) {
	w := Packed{Name: base + weightSuffix, Parts: []int{p.find(t.Name, ""), p.find(base, ".weight_scale")},
		Beside: p.beside(base, ".weight_shape", ".input_global_scale", ".input_scale", ".input_zero_point")}
	scale := p.tensor(base, ".weight_scale")
	if scale == nil || len(t.Shape) != 2 || len(scale.Shape) != 2 {
		return Packed{}, nil
	}
	if t.DType == dtype.U8 {
		w.Form, w.Shape = form.NVFP4, []int64{t.Shape[0], 2 * t.Shape[1]}
		w.Parts = append(w.Parts, p.find(base, ".weight_global_scale"))
		return w, nil
	}
	f := form.Words{Groups: scale.Shape[1], Scale: scale.DType}
	var err error
	if w.Shape, f.Bits, err = p.words(base, t, f.Groups); err != nil || w.Shape == nil {
		return Packed{}, err
	}
	// Bits that do not divide 32 run across words, or leave the rest of each.
	f.Tight = f.Bits > 0 && f.Bits <= 32 && 32%f.Bits != 0 && w.Shape[1] <= maxDimension && t.Shape[1] == (w.Shape[1]*f.Bits+31)/32
	if zero := p.find(base, ".weight_zero_point"); zero >= 0 {
		f.Zero, w.Parts = true, append(w.Parts, zero)
	}
	if index := p.find(base, ".weight_g_idx"); index >= 0 {
		f.Index, w.Parts = true, append(w.Parts, index)
	}
	w.Form = formName(p.names.words, f)
	return w, nil
}

// bits returns how many a weight has.
func (p *packer) bits() int64 { return p.ix.quantization(&p.config).Bits }

// modelopt is NVIDIA's Model Optimizer: FP8 with a scale for all, and NVFP4.
func (p *packer) modelopt(base string, t *Tensor) (Packed, error) {
	if t.DType != dtype.U8 {
		return p.scaled(base, t)
	}
	if len(t.Shape) != 2 || t.Shape[1] > maxDimension {
		return Packed{}, nil
	}
	return Packed{Name: t.Name, Shape: []int64{t.Shape[0], 2 * t.Shape[1]}, Form: form.NVFP4Times, Beside: p.beside(base, ".input_scale"),
		Parts: []int{p.find(t.Name, ""), p.find(base, ".weight_scale"), p.find(base, ".weight_scale_2")}}, nil
}

// awq is AWQ's gemm and gemv.
func (p *packer) awq(base string, t *Tensor) (Packed, error) {
	if !strings.EqualFold(p.config.Version, "gemv") {
		return p.columns(base, t)
	}
	scales := p.tensor(base, ".scales")
	if scales == nil || len(t.Shape) != 2 || t.Shape[1] > maxDimension {
		return Packed{}, nil
	}
	group := max(p.config.Group, p.config.QGroup)
	if group < 1 {
		group = 8 * t.Shape[1] // all inputs
	}
	return Packed{Name: base + weightSuffix, Shape: []int64{t.Shape[0], 8 * t.Shape[1]},
		Form:  formName(p.names.gemv, form.Gemv{Group: group, Scale: scales.DType}),
		Parts: []int{p.find(t.Name, ""), p.find(base, ".qzeros"), p.find(scales.Name, "")}}, nil
}

// scaled is compressed-tensors' int-quantized and float-quantized, and
// fbgemm_fp8: a scale for all, for each row, or for groups of a row.
func (p *packer) scaled(base string, t *Tensor) (Packed, error) {
	scale := p.tensor(base, ".weight_scale")
	if scale == nil || len(t.Shape) != 2 {
		return Packed{}, nil
	}
	w := Packed{Name: t.Name, Shape: t.Shape, Parts: []int{p.find(t.Name, ""), p.find(scale.Name, "")},
		Beside: p.beside(base, ".input_scale", ".input_zero_point", ".input_scale_ub")}
	f := form.Scaled{Scale: scale.DType, Rows: 1}
	n, size := scale.Elements(), max(t.Shape[0], 1)
	rows, cols := p.block()
	switch {
	case n == 1:
		f.Rows = 0
	case rows > 0 && len(scale.Shape) == 2 && scale.Shape[0] == (t.Shape[0]+rows-1)/rows && scale.Shape[1] == (t.Shape[1]+cols-1)/cols:
		f.Rows, f.Cols = rows, cols
	case n%size == 0 && n > 0 && t.Shape[1]%(n/size) == 0:
		f.Cols = t.Shape[1] / (n / size)
	default:
		return Packed{}, nil
	}
	if p.find(base, ".weight_g_idx") >= 0 { // groups in another order than that of the columns
		return Packed{}, nil
	}
	switch zero := p.tensor(base, ".weight_zero_point"); {
	case zero == nil || zero.DType.Float() || zero.DType == t.DType && t.DType != dtype.I8: // those of floats are 0
	case zero.DType != dtype.I8:
		return Packed{}, nil
	default:
		f.Zero, w.Parts = true, append(w.Parts, p.find(zero.Name, ""))
	}
	w.Form = formName(p.names.scaled, f)
	return w, nil
}

// block returns the rows and columns of compressed-tensors' strategy "block", 0
// where it is another.
func (p *packer) block() (rows, cols int64) {
	for _, g := range p.config.Groups {
		if b := g.Weights.Block; b != nil && b[0] > 0 && b[1] > 0 && b[2] == 0 && b[0] <= maxDimension && b[1] <= maxDimension {
			return b[0], b[1]
		}
	}
	return 0, 0
}

// columns is GPTQ's and AWQ's.
func (p *packer) columns(base string, t *Tensor) (Packed, error) {
	scales := p.tensor(base, ".scales")
	if scales == nil || len(t.Shape) != 2 || len(scales.Shape) != 2 {
		return Packed{}, nil
	}
	w := Packed{Name: base + weightSuffix, Parts: []int{p.find(t.Name, ""), p.find(base, ".qzeros"), p.find(scales.Name, "")}}
	f := form.Columns{AWQ: p.config.Method == "awq", Bits: p.bits(), Scale: scales.DType}
	if f.Bits < 1 {
		return Packed{}, nil
	}
	out, in := scales.Shape[1], t.Shape[0]
	if !f.AWQ {
		if in = in * 32 / f.Bits; t.Shape[0] > maxDimension {
			return Packed{}, nil
		}
		if f.Plus = 1; p.config.Checkpoint == "gptq_v2" {
			f.Plus = 0
		}
		if index := p.find(base, ".g_idx"); index >= 0 {
			f.Index, w.Parts = true, append(w.Parts, index)
		}
	}
	w.Shape = []int64{out, in}
	// A group size of -1 is all inputs.
	if f.Group = max(p.config.Group, p.config.QGroup); f.Group < 1 || f.Group > in {
		f.Group = in
	}
	w.Form = formName(p.names.columns, f)
	return w, nil
}

// fourBitStates are what the name of a 4-bit weight of bitsandbytes is followed
// by in that of its quantState.
var fourBitStates = []string{".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"}

// quantState is what bitsandbytes says about a 4-bit weight.
type quantState struct {
	Shape  [4]int64 `json:"shape"` // 0 behind its dimensions
	Block  int64    `json:"blocksize"`
	Nested int64    `json:"nested_blocksize"`
	Offset float32  `json:"nested_offset"`
}

// bitsandbytes is its int8 and its 4-bit types, whose shape is in a tensor of
// JSON.
func (p *packer) bitsandbytes(base string, t *Tensor) (Packed, error) {
	w := Packed{Name: t.Name, Shape: t.Shape}
	if scale := p.tensor(base, ".SCB"); scale != nil {
		w.Form = formName(p.names.scaled, form.Scaled{Scale: scale.DType, Rows: 1, Over: 127})
		w.Parts, w.Beside = []int{p.find(t.Name, ""), p.find(scale.Name, "")}, p.beside(base, ".weight_format")
		return w, nil
	}
	for _, kind := range fourBitStates {
		data, err := p.read(t.Name, kind)
		if err != nil {
			return Packed{}, err
		}
		s := &p.state
		*s = quantState{}
		if data == nil || json.Unmarshal(data, s) != nil {
			continue
		}
		w.Shape = slices.Clone(s.Shape[:slices.Index(append(s.Shape[:], 0), 0)])
		w.Parts = []int{p.find(t.Name, ""), p.find(t.Name, ".absmax"), p.find(t.Name, ".quant_map")}
		w.Beside = p.beside(t.Name, kind)
		f := form.BNB4{Block: s.Block}
		if nested := p.find(t.Name, ".nested_absmax"); nested >= 0 {
			f.Nested, f.Offset = s.Nested, s.Offset
			w.Parts = append(w.Parts, nested, p.find(t.Name, ".nested_quant_map"))
		}
		if f.Offset == 0 {
			w.Form = formName(p.names.bnb4, f)
		} else {
			w.Form = f.Name()
		}
		return w, nil
	}
	return Packed{}, nil
}

// blocks is FP8 with a scale for each block of rows and columns.
func (p *packer) blocks(base string, t *Tensor) (Packed, error) {
	scale := p.tensor(t.Name, "_scale_inv")
	if scale == nil {
		return p.scaled(base, t)
	}
	if p.config.Block[0] < 1 || p.config.Block[1] < 1 || p.config.Block[2] != 0 {
		return Packed{}, nil
	}
	return Packed{Name: t.Name, Shape: t.Shape, Parts: []int{p.find(t.Name, ""), p.find(scale.Name, "")},
		Form: formName(p.names.scaled, form.Scaled{Scale: scale.DType, Rows: p.config.Block[0], Cols: p.config.Block[1]})}, nil
}

// microscaling is gpt-oss's experts: blocks of [experts, out, in / 32, 16]. The
// weight is shown as it is stored, [experts, out, in].
func (p *packer) microscaling(base string, t *Tensor) (Packed, error) {
	if len(t.Shape) != 4 || t.Shape[3] != 16 || strings.HasSuffix(base, ".") {
		return Packed{}, nil
	}
	return Packed{Name: base, Shape: []int64{t.Shape[0], t.Shape[1], 32 * t.Shape[2]}, Form: form.MXFP4,
		Parts: []int{p.find(t.Name, ""), p.find(base, "_scales")}}, nil
}
