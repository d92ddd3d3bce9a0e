package checkpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/source"
)

// Names of the Llama family, as Hugging Face checkpoints have them.
const (
	layerPrefix = "model.layers."
	embedName   = "model.embed_tokens.weight"
	normName    = "model.norm.weight"
	headName    = "lm_head.weight"
	gateName    = "mlp.gate_proj.weight"
)

// family are the model types whose weights have these names and shapes. Some
// have others besides, such as biases and norms over heads.
var family = []string{"llama", "mistral", "qwen2", "qwen3"}

// describe fills in the architecture from config.json, where files has one,
// and from the tensors' names and shapes, and checks that they agree.
func describe(ctx context.Context, src source.Source, ix *Index, files []source.File, whole bool) error {
	c := config{}
	if slices.ContainsFunc(ix.SideFiles, func(f source.File) bool { return f.Name == configName }) {
		data, err := readAll(ctx, src, configName, maxConfigBytes)
		if err != nil {
			return err
		}
		if c, err = parseConfig(data); err != nil {
			return err
		}
		if data, err = withQuantFile(ctx, src, files, c); err != nil {
			return err
		}
		c.fields = data
		if ix.TPPlan, err = c.tpPlan(); err != nil {
			return err
		}
		// Compact, as it would be after a way through JSON.
		if ix.Config, err = json.Marshal(json.RawMessage(data)); err != nil {
			return invalid(configName, "not JSON: %w", err)
		}
		if err := pack(ctx, src, ix); err != nil {
			return err
		}
	}
	n := byNames(ix)
	a := &ix.Architecture
	switch {
	case !n.llama:
	case c.ModelType == "":
		a.Name = "llama"
	case slices.Contains(family, c.ModelType):
		a.Name = c.ModelType
	}
	if a.Name == "" {
		c.fillOther(a)
		if a.Name == "gpt2" && ix.Format == FormatSafetensors { // ONNX's graphs tell
			turnConv1D(ix)
		}
	} else {
		if err := c.fill(a); err != nil {
			return err
		}
		n.fill(ix, a, whole)
		if err := n.checkLayers(configName, *a, whole); err != nil {
			return err
		}
		// Packed weights have shapes of their own.
		if c.fields != nil && !c.quantized() {
			if err := checkShapes(ix); err != nil {
				return err
			}
		}
	}
	a.Parameters = parameters(ix)
	return nil
}

// parameters counts the elements of all tensors, of packed weights those that
// they had before; where head and embedding
// are tied but both stored, only once.
func parameters(ix *Index) (n int64) {
	packed := make([]bool, len(ix.Tensors))
	for i := range ix.Packed {
		w := &ix.Packed[i]
		rows, cols := w.Matrix()
		n += rows * cols
		for _, part := range slices.Concat(w.Parts, w.Beside) {
			packed[part] = true
		}
	}
	for i, t := range ix.Tensors {
		if packed[i] || t.Name == headName && ix.Architecture.TiedEmbeddings {
			continue
		}
		n += t.Elements()
	}
	return n
}

// names is what the tensors' names tell.
type names struct {
	llama  bool    // they are those of the Llama family
	layers int64   // highest layer number + 1
	count  int64   // layers that have any tensor; of numbers up to that of tensors
	embed  *Tensor // nil where there is none
	head   bool    // there is one
}

// byNames reads the names. They are the family's where a layer has a query
// projection of its own (not one fused with key and value) and no experts.
func byNames(ix *Index) names {
	var n names
	found := make([]bool, len(ix.Tensors))
	experts := false
	for i := range ix.Tensors {
		t := &ix.Tensors[i]
		layer, rest, ok := LayerOf(t.Name)
		if !ok {
			if t.Name == embedName {
				n.embed = t
			}
			n.head = n.head || t.Name == headName
			continue
		}
		if layer < int64(len(found)) && !found[layer] {
			found[layer] = true
			n.count++
		}
		n.layers = max(n.layers, layer+1)
		n.llama = n.llama || strings.HasPrefix(rest, "self_attn.q_proj.")
		experts = experts || strings.HasPrefix(rest, "mlp.experts.") || strings.HasPrefix(rest, "block_sparse_moe.")
	}
	n.llama = n.llama && !experts
	return n
}

// LayerOf splits the name of a layer's tensor, model.layers.N.REST.
func LayerOf(name string) (layer int64, rest string, ok bool) {
	s, ok := strings.CutPrefix(name, layerPrefix)
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(s, ".")
	n, err := strconv.ParseUint(number, 10, 31)
	return int64(n), rest, ok && err == nil
}

// fill adds what no config.json said and shapes tell.
func (n names) fill(ix *Index, a *Architecture, whole bool) {
	a.Layers = cmp.Or(a.Layers, n.layers)
	if n.embed != nil && len(n.embed.Shape) == 2 {
		a.Vocab = cmp.Or(a.Vocab, n.embed.Shape[0])
		a.Hidden = cmp.Or(a.Hidden, n.embed.Shape[1])
	}
	for _, t := range ix.Tensors {
		if _, rest, ok := LayerOf(t.Name); ok && rest == gateName && len(t.Shape) == 2 {
			a.Intermediate = cmp.Or(a.Intermediate, t.OutIn()[0])
			break
		}
	}
	if !n.head && whole {
		a.TiedEmbeddings = n.embed != nil
	}
}
