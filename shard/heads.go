package shard

import "github.com/gantry-ml/gantry/checkpoint"

// heads is what the cuts of attention need to know. Zero is unknown.
type heads struct{ q, kv int64 }

// countHeads returns the head counts of the configuration, or what can be
// told from the size of a head: that of the configuration, of a norm over
// heads, or of the rotary frequencies (one for each pair of elements).
func countHeads(ix *checkpoint.Index) heads {
	h := heads{ix.Architecture.Heads, ix.Architecture.KVHeads}
	if h.q > 0 && h.kv > 0 {
		return h
	}
	dim, rows := ix.Architecture.HeadDim, map[string]int64{}
	for _, t := range ix.Tensors {
		n := parseName(t.Name)
		if len(t.Shape) == 0 {
			continue
		}
		switch {
		case n.leaf == "weight" && n.layer >= 0 && t.Transposed:
			rows[n.module] = t.Shape[len(t.Shape)-1]
		case n.leaf == "weight" && n.layer >= 0:
			rows[n.module] = t.Shape[0]
		case n.leaf == "inv_freq" && dim == 0:
			dim = 2 * t.Shape[0]
		}
	}
	if dim == 0 && rows["q_norm"] < rows["q_proj"] { // else the norm is over all heads
		dim = rows["q_norm"]
	}
	if dim <= 0 {
		return h
	}
	if h.q <= 0 && rows["q_proj"]%dim == 0 {
		h.q = rows["q_proj"] / dim
	}
	if h.kv <= 0 && rows["k_proj"]%dim == 0 {
		h.kv = rows["k_proj"] / dim
	}
	return h
}
