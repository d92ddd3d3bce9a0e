package shard

import (
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/quant"
)

// undecodedWhy is why a tensor stays as it is stored.
const undecodedWhy = "of a weight that is quantized in a way that is not decoded"

// Undecoded says, tensor by tensor, which belong to weights that a quantizer
// packed and that are no Packed of the index. Their scales are floats, but
// stay what they are, whatever the scheme: the packed integers mean nothing
// without them.
func Undecoded(ix *checkpoint.Index) []bool {
	members := map[int]bool{}
	for i := range ix.Packed {
		for _, part := range slices.Concat(ix.Packed[i].Parts, ix.Packed[i].Beside) {
			members[part] = true
		}
	}
	return undecoded(ix, ix.About().Quantization, members)
}

// undecoded does so of an index whose packed weights are made of members. A
// weight's tensors are in one module, by their names (up_proj.qweight,
// up_proj.scales), or below the name of its integers (up_proj.weight,
// up_proj.weight.absmax).
func undecoded(ix *checkpoint.Index, q *checkpoint.Quantization, members map[int]bool) []bool {
	kept := make([]bool, len(ix.Tensors))
	if q == nil || ix.Format != checkpoint.FormatSafetensors {
		return kept
	}
	modules := map[string]bool{}
	for i := range ix.Tensors {
		if t := &ix.Tensors[i]; !members[i] && (t.Codes || !quant.Decodes(t.DType)) {
			modules[moduleOf(t.Name)], modules[t.Name] = true, true
		}
	}
	for i := range ix.Tensors {
		module := moduleOf(ix.Tensors[i].Name)
		kept[i] = !members[i] && module != "" && modules[module]
	}
	return kept
}

// moduleOf returns a tensor's name without its last part, "" where it has one
// only.
func moduleOf(name string) string { return name[:max(strings.LastIndexByte(name, '.'), 0)] }

// kept names the tensors of the plan that stay as they are stored so.
func (b *builder) kept() (names []string) {
	for i := range b.parts {
		if b.parts[i].kept {
			names = append(names, b.plan.Tensors[i].Name)
		}
	}
	return names
}
