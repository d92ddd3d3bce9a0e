package checkpoint

import (
	"cmp"
	"math"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	ggufnames "github.com/gantry-ml/gantry/checkpoint/gguf/names"
)

// ggufModel reads what a GGUF header says about the model. The keys are those
// of the format's specification, "Standardized key-value pairs".
type ggufModel struct {
	h    *gguf.Header
	file string
}

// architecture returns what the file calls the model, such as "llama" or
// "gemma2"; "" where it says nothing.
func (m ggufModel) architecture() string {
	v, _ := m.h.Find("general.architecture")
	name, ok := v.Text()
	if !ok {
		return ""
	}
	return name
}

// int returns a count: 0 where the file does not say it, or says one for each
// layer.
func (m ggufModel) int(key string, limit int64) (int64, error) {
	v, ok := m.h.Find(key)
	if !ok || v.Type == gguf.Array {
		return 0, nil
	}
	n, ok := v.Int()
	if !ok || n > limit {
		return 0, invalid(m.file, "%s is %.40q, want 0 to %d", key, v, limit)
	}
	return n, nil
}

// float returns a number, 0 where the file does not say it.
func (m ggufModel) float(key string) float64 {
	v, _ := m.h.Find(key)
	f, ok := v.Float()
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// describe fills in the architecture from the metadata, which the translation
// has read, and the tensors, and checks that they agree.
func (m ggufModel) describe(ix *Index, as translation) error {
	ix.Architecture = as.architecture
	a := &ix.Architecture
	if n := byNames(ix); n.llama && slices.Contains(family, a.Name) {
		n.fill(ix, a, true)
		if err := n.checkLayers(m.file, *a, true); err != nil {
			return err
		}
		if err := checkShapes(ix); err != nil {
			return err
		}
	}
	if as.table != nil {
		a.TiedEmbeddings = as.tied(ix)
	}
	a.Parameters = parameters(ix)
	return nil
}

// fill sets what the metadata says. The name becomes that of config.json's
// model_type where it is known.
func (m ggufModel) fill(a *Architecture, table *ggufnames.Table) error {
	arch := m.architecture()
	if arch == "" {
		return nil
	}
	if a.Name = arch; table != nil {
		a.Name = table.Model()
	}
	for _, f := range []struct {
		to    *int64
		key   string
		limit int64
	}{
		{&a.Context, ".context_length", math.MaxInt32},
		{&a.Hidden, ".embedding_length", maxDimension},
		{&a.Intermediate, ".feed_forward_length", maxDimension},
		{&a.Layers, ".block_count", maxDimension},
		{&a.Heads, ".attention.head_count", maxDimension},
		{&a.KVHeads, ".attention.head_count_kv", maxDimension},
		{&a.HeadDim, ".attention.key_length", maxDimension},
		{&a.Vocab, ".vocab_size", math.MaxInt32},
	} {
		n, err := m.int(arch+f.key, f.limit)
		if err != nil {
			return err
		}
		*f.to = n
	}
	// The embedding has a row for each token; vocab_size is what there was
	// before tokens were added to fill it up.
	if tokens, ok := m.h.Find("tokenizer.ggml.tokens"); ok && tokens.Len() > 0 {
		a.Vocab = int64(min(tokens.Len(), math.MaxInt32))
	}
	if _, said := m.h.Find(arch + ".attention.head_count_kv"); !said {
		a.KVHeads = a.Heads
	}
	if a.HeadDim == 0 && a.Heads > 0 && a.Hidden%a.Heads == 0 {
		a.HeadDim = a.Hidden / a.Heads
	}
	a.NormEps = cmp.Or(m.float(arch+".attention.layer_norm_rms_epsilon"), m.float(arch+".attention.layer_norm_epsilon"))
	a.RopeTheta = m.float(arch + ".rope.freq_base")
	if slices.Contains(family, a.Name) {
		a.RopeTheta = cmp.Or(a.RopeTheta, 10_000)
		if a.KVHeads > 0 && a.Heads%a.KVHeads != 0 {
			return invalid(m.file, "%d attention heads cannot share %d key-value heads", a.Heads, a.KVHeads)
		}
	}
	return nil
}
