package shard

import (
	"slices"
	"strconv"
	"strings"
)

// place is where in the model a tensor belongs.
type place uint8

const (
	embedding place = iota // before the layers
	inLayer
	finalNorm // after the layers
	head
	anywhere // nobody knows
)

// rule says how the tensors of one module are divided.
type rule struct {
	weight Rule
	bias   Rule
	heads  bool // rows are attention heads
	// multiplies says that it is a linear layer however its weight is divided.
	multiplies bool
	at         place
}

// linear reports whether the module multiplies by its weight, and is inside a
// layer: what schemes that are not ggml's quantize.
func (r rule) linear() bool {
	return r.multiplies || r.weight != "" && r.weight != Replicated && r.weight != Vocab
}

// name is a tensor's name taken apart.
type name struct {
	path   string // of its module: "model.layers.3.self_attn.q_proj"
	module string // "q_proj"
	leaf   string // "weight"
	stack  string // what precedes the layer's number: "model.layers"
	layer  int    // -1 outside the layers
	expert int    // -1 where it is of no single one
}

// stacks are the parts of names that a layer's number follows: transformers'
// decoders, GGUF, GPT-2, BERT, and others.
var stacks = []string{"layers", "blk", "h", "layer", "blocks"}

// beside are the parts of names of what models of several modalities have
// beside their language model. It has heads and layers of its own, which their
// configuration's main part does not count: it is not cut.
var beside = []string{"vision_tower", "vision_model", "visual", "audio_tower", "multi_modal_projector"}

// parseName takes "model.layers.3.self_attn.q_proj.weight" apart. The first
// number after a part of stacks is the layer, the one after "experts" an
// expert.
func parseName(s string) name {
	parts := strings.Split(s, ".")
	last := len(parts) - 1
	n := name{path: strings.Join(parts[:last], "."), leaf: parts[last], layer: -1, expert: -1}
	if last > 0 {
		n.module = parts[last-1]
	}
	if isBeside(n.path) {
		return n
	}
	for i := 1; i < len(parts); i++ {
		number, err := strconv.ParseUint(parts[i], 10, 31)
		switch {
		case err != nil:
		case n.layer < 0 && slices.Contains(stacks, parts[i-1]):
			n.layer, n.stack = int(number), strings.Join(parts[:i], ".")
		case parts[i-1] == "experts" && number < maxExperts:
			n.expert = int(number)
		}
	}
	return n
}

// maxExperts bounds the experts of a layer. Models have up to 512.
const maxExperts = 1 << 14
