package model

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// ggufType returns the type of ggml's that a tensor is kept in.
func ggufType(t *shard.Tensor) (dtype.Type, bool) {
	name, _, _ := strings.Cut(t.Scheme, "+")
	s, err := quant.Parse(name)
	if err != nil {
		return dtype.Invalid, false
	}
	if b, ok := quant.BlockType(s); ok {
		return b, true
	}
	if s.Target() != quant.Nothing && s.Target() != quant.Floats {
		return dtype.Invalid, false // a layout of its own, whatever its elements are
	}
	kept := t.Layout.Planes[0].DType
	_, ok := gguf.Number(kept)
	return kept, ok
}

// CheckGGUF says, with class usage, why a plan's model cannot be written as
// GGUF: for some scheme, or some stored type, that format has no layout.
func CheckGGUF(p *shard.Plan) error {
	for i := range p.Tensors {
		t := &p.Tensors[i]
		if _, ok := ggufType(t); ok || isUnnamed(t.Name) {
			continue
		}
		what := t.Scheme
		if what == "none" {
			what = "stored elements of type " + t.DType.String()
		}
		return &recovery.Error{Class: recovery.Usage, Op: "export", Tensor: t.Name,
			Err:  fmt.Errorf("GGUF has no layout for %s", what),
			Hint: "quantize to one of ggml's types, such as q8_0 or q4_K, or to f16, bf16 or f32"}
	}
	return nil
}

// GGUFOverrides returns what a plan must be made with besides, so that vectors
// are F32 in a GGUF file as they were stored: a cast of all tensors would round
// them first. There is one for each name, whatever the layer.
func GGUFOverrides(p *shard.Plan) []quant.Override {
	var list []quant.Override
	for i := range p.Tensors {
		t := &p.Tensors[i]
		if len(t.Shape) != 1 || t.Scheme != "f16" && t.Scheme != "bf16" || t.Scheme == strings.ToLower(t.DType.String()) {
			continue
		}
		if o := layersOverride(t.Name, "f32"); !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	return list
}

// layersOverride gives a tensor a scheme, and those of its name in other layers.
func layersOverride(name, scheme string) quant.Override {
	return quant.Override{Pattern: layerNumber.ReplaceAllString(globs.Replace(name), ".*."), Scheme: scheme}
}

// layerNumber is the number of a layer, or expert, in a tensor's name.
var layerNumber = regexp.MustCompile(`\.[0-9]+\.`)

// globs takes what a pattern gives a meaning to as it is.
var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `{`, `\{`, `}`, `\}`)

// ggufTensor is a tensor of a GGUF file and where its planes come from: one
// tensor of the plan, or those of all experts of a layer.
type ggufTensor struct {
	gguf.Tensor
	from []outPlane // by expert; offsets are those in the tensor
}

// unnamed are endings of tensors that Hugging Face checkpoints may store and
// llama.cpp works out by itself.
var unnamed = []string{".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"}

func isUnnamed(name string) bool {
	return slices.ContainsFunc(unnamed, func(s string) bool { return strings.HasSuffix(name, s) })
}

// ggufTensors lists what a GGUF file holds of a plan's tensors, in its order.
// head is the number of rows of one attention head. table is nil for a GGUF
// file of an architecture that is not known: its names stay as they are.
func ggufTensors(ix *checkpoint.Index, p *shard.Plan, table *names.Table, head int64) ([]ggufTensor, error) {
	if err := CheckGGUF(p); err != nil {
		return nil, err
	}
	var list []ggufTensor
	at := map[string]int{}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		fail := func(err error, hint string) error {
			return &recovery.Error{Class: recovery.Unsupported, Op: "export", Tensor: t.Name, Err: err, Hint: hint}
		}
		name, expert, known := t.Name, -1, false
		if table != nil {
			name, expert, known = table.GGUF(t.Name)
		}
		switch {
		case known || ix.Format == checkpoint.FormatGGUF && table == nil:
		case ix.Format == checkpoint.FormatGGUF:
			name = t.Name
		case isUnnamed(t.Name):
			continue
		default:
			return nil, fail(fmt.Errorf("llama.cpp's %s models have no such tensor", table.Arch()), "export to safetensors")
		}
		x, err := ggufTensorOf(p, i, name, table, head)
		if err != nil {
			return nil, fail(err, "export to safetensors, or to f16")
		}
		if expert < 0 {
			list = append(list, x)
			continue
		}
		first, ok := at[name]
		if !ok {
			first = len(list)
			at[name] = first
			list = append(list, ggufTensor{Tensor: gguf.Tensor{Name: name, DType: x.DType, Shape: slices.Concat([]int64{0}, x.Shape)}})
		}
		if err := list[first].add(x, expert); err != nil {
			return nil, fail(err, "")
		}
	}
	for _, x := range list {
		if slices.ContainsFunc(x.from, func(o outPlane) bool { return o.tensor < 0 }) {
			return nil, &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "export", Tensor: x.Name, Err: errors.New("an expert is missing")}
		}
	}
	return list, nil
}

// ggufTensorOf says how one tensor of the plan is written.
func ggufTensorOf(p *shard.Plan, i int, name string, table *names.Table, head int64) (ggufTensor, error) {
	t := &p.Tensors[i]
	x := ggufTensor{Tensor: gguf.Tensor{Name: name, Shape: t.Shape}}
	x.DType, _ = ggufType(t)
	o := outPlane{tensor: i}
	var shift float32
	if table != nil {
		shift = table.Shift(t.Name)
		if table.Interleaved(t.Name) != names.NoHeads {
			if head < 2 || head%2 != 0 || t.Rows%head != 0 {
				return x, fmt.Errorf("its %d rows are not heads of %d rows, which GGUF has in another order", t.Rows, head)
			}
			o.head = head
		}
	}
	transpose := (t.Transposed || table != nil && table.Transposed(t.Name)) && len(t.Shape) == 2
	// llama.cpp multiplies and adds by vectors in F32 only.
	vector := len(t.Shape) < 2 && x.DType.Float()
	switch {
	case transpose && x.DType.Quantized():
		return x, fmt.Errorf("it is stored transposed, so that its blocks of %s do not run along GGUF's rows", t.Scheme)
	case transpose:
		x.Shape = []int64{t.Shape[1], t.Shape[0]}
	case shift == 0 && (!vector || x.DType == dtype.F32):
		x.from = []outPlane{o}
		return x, nil
	}
	if vector || shift != 0 {
		x.DType = dtype.F32
	}
	if !x.DType.Float() || x.DType == dtype.F64 {
		return x, fmt.Errorf("elements of type %s cannot be worked out anew", x.DType)
	}
	as, err := quant.Parse(castSchemes[x.DType])
	if err != nil {
		return x, err
	}
	o.values = &outValues{as: as, size: int64(x.DType.Size()), shift: shift, transpose: transpose}
	x.from = []outPlane{o}
	return x, nil
}

// add takes in the matrix of an expert.
func (x *ggufTensor) add(e ggufTensor, expert int) error {
	if expert >= maxExperts {
		return fmt.Errorf("expert %d, at most %d are supported", expert, maxExperts)
	}
	if e.DType != x.DType || !slices.Equal(e.Shape, x.Shape[1:]) {
		return fmt.Errorf("it is %s of shape %v, other experts are %s of shape %v", e.DType, e.Shape, x.DType, x.Shape[1:])
	}
	n, err := dtype.Elements(e.Shape)
	if err != nil {
		return err
	}
	size, err := e.DType.Bytes(n)
	if err != nil {
		return err
	}
	for len(x.from) <= expert {
		x.from = append(x.from, outPlane{tensor: -1})
	}
	if x.from[expert].tensor >= 0 {
		return fmt.Errorf("expert %d is there twice", expert)
	}
	x.from[expert] = e.from[0]
	x.from[expert].offset = int64(expert) * size
	x.Shape[0] = int64(len(x.from))
	return nil
}

// maxExperts bounds the experts of a layer. Models have 8 to 512.
const maxExperts = 1 << 14
