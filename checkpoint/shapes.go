package checkpoint

import "slices"

// checkLayers checks that the layers are there: a plan over missing ones would
// place a model that cannot run. In part of a checkpoint some may be missing.
// file is the one that says how many there are.
func (n names) checkLayers(file string, a Architecture, whole bool) error {
	switch {
	case n.layers > a.Layers:
		return invalid(file, "the model has %d layers, but there are tensors of layer %d", a.Layers, n.layers-1)
	case whole && n.count < a.Layers:
		return invalid(file, "the model has %d layers, but there are tensors of %d of them only: it is incomplete", a.Layers, n.count)
	}
	return nil
}

// checkShapes checks the weights of the Llama family against the
// architecture. What it does not know, and dimensions that are not known,
// pass.
func checkShapes(ix *Index) error {
	want := ix.Architecture.shapes()
	for _, t := range ix.Tensors {
		name := t.Name
		if _, rest, ok := LayerOf(name); ok {
			name = rest
		}
		shape, ok := want[name]
		if !ok || slices.Contains(shape, 0) || slices.Equal(shape, t.OutIn()) {
			continue
		}
		return invalidTensor(ix.Files[t.File].Name, t.Name, "its shape is %v, the architecture (%s) wants %v", t.Shape, ix.Architecture.Name, shape)
	}
	return nil
}

// shapes returns the shapes of the weights, by their names within a layer or
// outside of all.
func (a Architecture) shapes() map[string][]int64 {
	q, kv := a.Heads*a.HeadDim, a.KVHeads*a.HeadDim
	return map[string][]int64{
		embedName:                         {a.Vocab, a.Hidden},
		headName:                          {a.Vocab, a.Hidden},
		normName:                          {a.Hidden},
		"input_layernorm.weight":          {a.Hidden},
		"post_attention_layernorm.weight": {a.Hidden},
		"self_attn.q_proj.weight":         {q, a.Hidden},
		"self_attn.q_proj.bias":           {q},
		"self_attn.k_proj.weight":         {kv, a.Hidden},
		"self_attn.k_proj.bias":           {kv},
		"self_attn.v_proj.weight":         {kv, a.Hidden},
		"self_attn.v_proj.bias":           {kv},
		"self_attn.o_proj.weight":         {a.Hidden, q},
		gateName:                          {a.Intermediate, a.Hidden},
		"mlp.up_proj.weight":              {a.Intermediate, a.Hidden},
		"mlp.down_proj.weight":            {a.Hidden, a.Intermediate},
	}
}
