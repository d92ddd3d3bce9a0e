package checkpoint

import (
	"slices"
	"strconv"
	"strings"

	ggufnames "github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
)

// maxExperts bounds how many tensors one that holds all experts becomes.
const maxExperts = 4096

// translation is what a GGUF model's tensors are in Hugging Face's terms.
type translation struct {
	architecture Architecture     // what the metadata says
	table        *ggufnames.Table // nil where the architecture is not known: tensors stay as they are
	experts      int64
}

// translation reads the metadata.
func (m ggufModel) translation() (t translation, err error) {
	if t.experts, err = m.int(m.architecture()+".expert_count", maxExperts); err != nil {
		return t, err
	}
	t.table = ggufnames.ForGGUF(m.architecture(), t.experts)
	return t, m.fill(&t.architecture, t.table)
}

// add appends a tensor of a GGUF file, under its Hugging Face name and with
// its form. What is not known keeps its name, and so does what cannot be
// brought into Hugging Face's order, since nobody may take it for that.
func (as translation) add(list []Tensor, t Tensor) []Tensor {
	if as.table == nil {
		return append(list, t)
	}
	hf, ok := as.table.HuggingFace(t.Name)
	if !ok {
		return append(list, t)
	}
	if before, after, ok := strings.Cut(hf, ggufnames.Expert); ok {
		return as.divide(list, t, before, after)
	}
	switch heads := as.heads(hf); {
	case as.table.Interleaved(hf) != ggufnames.NoHeads:
		if len(t.Shape) == 0 || heads == 0 || t.Shape[0]%heads != 0 || t.Shape[0]/heads%2 != 0 {
			return append(list, t)
		}
		t.Form = form.Interleaved(t.Shape[0] / heads)
	case as.table.Shift(hf) != 0:
		if t.DType != dtype.F32 && t.DType != dtype.F16 && t.DType != dtype.BF16 {
			return append(list, t)
		}
		t.Form = form.Plus(as.table.Shift(hf))
	}
	t.Name = hf
	return append(list, t)
}

// heads returns how many heads the rows of a tensor are, 0 where unknown.
func (as translation) heads(hf string) int64 {
	switch as.table.Interleaved(hf) {
	case ggufnames.QueryHeads:
		return as.architecture.Heads
	case ggufnames.KeyHeads:
		return as.architecture.KVHeads
	}
	return 0
}

// count returns how many tensors one becomes.
func (as translation) count(t *Tensor) int64 {
	if as.table != nil && as.divides(t) {
		if hf, ok := as.table.HuggingFace(t.Name); ok && strings.Contains(hf, ggufnames.Expert) {
			return as.experts
		}
	}
	return 1
}

// divides says whether a tensor can hold all experts, one after the other.
func (as translation) divides(t *Tensor) bool {
	return as.experts > 0 && len(t.Shape) > 1 && t.Shape[0] == as.experts && t.Bytes%as.experts == 0
}

// divide appends a tensor for each expert of one that holds them all.
func (as translation) divide(list []Tensor, t Tensor, before, after string) []Tensor {
	if !as.divides(&t) {
		return append(list, t)
	}
	t.Bytes /= as.experts
	t.Shape = t.Shape[1:]
	for i := range as.experts {
		t.Name = before + strconv.FormatInt(i, 10) + after
		list = append(list, t)
		t.Offset += t.Bytes
	}
	return list
}

// tied says whether the head is the embedding: where an architecture has a head
// and the model none of its own.
func (as translation) tied(ix *Index) bool {
	stored := func(gguf string) (has, known bool) {
		hf, known := as.table.HuggingFace(gguf)
		return slices.ContainsFunc(ix.Tensors, func(t Tensor) bool { return t.Name == hf }), known
	}
	embedding, _ := stored("token_embd.weight")
	head, known := stored("output.weight")
	return known && embedding && !head
}
