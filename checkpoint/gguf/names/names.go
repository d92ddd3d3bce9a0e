package names

import (
	"strconv"
	"strings"
)

// Table is how one architecture's tensors are called. Names in it have no
// ending; .weight and .bias stay on either side.
type Table struct {
	family
	arch, model string
}

// Expert stands for the number of an expert in a Hugging Face name that
// HuggingFace returns: one GGUF tensor holds the matrices of all experts of a
// layer, one after the other, where a Hugging Face checkpoint has a tensor for
// each.
const Expert = "*"

// ggufLayer is what precedes a layer's number in GGUF.
const ggufLayer = "blk."

// Arch returns the architecture as GGUF's general.architecture has it.
func (t *Table) Arch() string { return t.arch }

// Model returns it as config.json's model_type has it.
func (t *Table) Model() string { return t.model }

// HuggingFace returns the name of a GGUF file's tensor in a Hugging Face
// checkpoint. In that of a tensor that holds all experts of a layer, Expert
// stands for their number. ok is false where the tables do not have it.
func (t *Table) HuggingFace(name string) (hf string, ok bool) {
	stem, ending, ok := split(name)
	if !ok {
		return "", false
	}
	if to, ok := t.global[stem]; ok {
		return to + ending, true
	}
	layer, part, ok := cutLayer(stem, ggufLayer)
	if !ok {
		return "", false
	}
	to, ok := t.layer[part]
	return t.layers + layer + "." + to + ending, ok
}

// GGUF returns the name of a Hugging Face checkpoint's tensor in a GGUF file,
// and which expert's part of that tensor it is, -1 where it is all of it. ok
// is false where the tables do not have it.
func (t *Table) GGUF(hf string) (name string, expert int, ok bool) {
	stem, ending, ok := split(hf)
	if !ok {
		return "", -1, false
	}
	for _, prefix := range []string{"", t.prefix} { // some checkpoints leave it out
		if to, ok := t.toGlobal[prefix+stem]; ok {
			return to + ending, -1, true
		}
		layer, part, ok := cutLayer(prefix+stem, t.layers)
		if !ok {
			continue
		}
		part, expert = cutExpert(part)
		if to, ok := t.toLayer[part]; ok {
			return ggufLayer + layer + "." + to + ending, expert, true
		}
	}
	return "", -1, false
}

// Heads says whose heads the rows of a tensor are.
type Heads uint8

// The rows of a tensor.
const (
	NoHeads    Heads = iota // in the same order on both sides
	QueryHeads              // of query heads, interleaved in GGUF
	KeyHeads                // of key heads, of which there may be fewer, interleaved in GGUF
)

// Interleaved says whether GGUF has the rows of a tensor, given by its Hugging
// Face name, in another order, and by which heads: see ToGGUF.
func (t *Table) Interleaved(hf string) Heads {
	stem, _, _ := split(hf)
	switch {
	case !t.interleaved:
	case strings.HasSuffix(stem, ".self_attn.q_proj"):
		return QueryHeads
	case strings.HasSuffix(stem, ".self_attn.k_proj"):
		return KeyHeads
	}
	return NoHeads
}

// Shift returns what GGUF has added to each value of a tensor, given by its
// Hugging Face name: 1 for Gemma's norms, whose gain is 1 + weight in
// transformers' GemmaRMSNorm and the weight in llama.cpp; 0 else. Such tensors
// are F32 in GGUF, and the sum is worked out in F32.
func (t *Table) Shift(hf string) float32 {
	if t.shifted && strings.HasSuffix(hf, "norm.weight") {
		return 1
	}
	return 0
}

// Transposed says whether a tensor, given by its Hugging Face name, is [in,
// out] there and [out, in] in GGUF: the weights of GPT-2's Conv1D.
func (t *Table) Transposed(hf string) bool {
	stem, ending, _ := split(hf)
	_, part, ok := cutLayer(stem, t.layers)
	if !ok {
		_, part, ok = cutLayer(t.prefix+stem, t.layers)
	}
	return ok && ending == ".weight" && t.transposed[part]
}

// split takes .weight or .bias, which every name ends with, off.
func split(name string) (stem, ending string, ok bool) {
	for _, e := range []string{".weight", ".bias"} {
		if stem, ok := strings.CutSuffix(name, e); ok {
			return stem, e, true
		}
	}
	return "", "", false
}

// cutLayer splits PREFIX N . REST. The number is written as strconv writes it.
func cutLayer(name, prefix string) (layer, rest string, ok bool) {
	s, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", false
	}
	layer, rest, ok = strings.Cut(s, ".")
	return layer, rest, ok && number(layer) >= 0
}

// cutExpert replaces the number in experts.N.REST by Expert and returns it,
// -1 where there is none.
func cutExpert(part string) (string, int) {
	const experts = "experts."
	before, after, ok := strings.Cut(part, experts)
	if !ok || before != "" && !strings.HasSuffix(before, ".") {
		return part, -1
	}
	n, rest, ok := strings.Cut(after, ".")
	if !ok || number(n) < 0 {
		return part, -1
	}
	return before + experts + Expert + "." + rest, number(n)
}

// number returns a number without sign or leading zeros, -1 for other text.
func number(s string) int {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return -1
	}
	return int(n)
}
