package shard

import (
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/source"
)

// layerIndex is one layer with matrices of 2 MiB and more, in one file.
func layerIndex() *checkpoint.Index {
	const hidden, inter = 1024, 4096
	ix := &checkpoint.Index{Format: checkpoint.FormatSafetensors,
		Architecture: checkpoint.Architecture{Name: "llama", Layers: 1, Hidden: hidden, Heads: 16, KVHeads: 4}}
	var at int64
	add := func(name string, shape ...int64) {
		n := int64(2)
		for _, d := range shape {
			n *= d
		}
		ix.Tensors = append(ix.Tensors, checkpoint.Tensor{Name: "model.layers.0." + name + ".weight", DType: dtype.BF16, Shape: shape, Offset: at, Bytes: n})
		at += n
	}
	add("input_layernorm", hidden)
	add("self_attn.q_proj", hidden, hidden)
	add("self_attn.k_proj", hidden/4, hidden)
	add("self_attn.o_proj", hidden, hidden)
	add("mlp.gate_proj", inter, hidden)
	add("mlp.down_proj", hidden, inter)
	ix.Files = []source.File{{Name: "model.safetensors", Size: at}}
	return ix
}

// A chunk ends where a rank's rows end, so that its reader sends nothing: only
// what is cut by columns, and what is small, has several owners.
func TestChunksEndWhereARanksRowsEnd(t *testing.T) {
	for _, tp := range []int{1, 2, 4} {
		p, err := Build(layerIndex(), Options{Layout: Layout{TP: tp}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Chunks {
			var all, most int64
			for _, x := range c.Pieces {
				all, most = all+x.Bytes, max(most, x.Bytes)
			}
			cut := false
			for _, s := range c.Segments {
				rows := p.Tensors[s.Tensor].Rule == Colwise && p.Tensors[s.Tensor].Bytes >= int64(tp)*ownBytes
				cut = cut || !rows && s.Bytes >= ownBytes
			}
			if sent := all - most; !cut && sent >= ownBytes {
				t.Errorf("tp %d: chunk %d of %d bytes leaves %d bytes for others than its owner", tp, c.ID, c.Bytes, sent)
			}
		}
		if want := map[int]int{1: 3, 2: 6, 4: 6}[tp]; len(p.Chunks) != want {
			t.Errorf("tp %d: %d chunks, want %d", tp, len(p.Chunks), want)
		}
	}
}
