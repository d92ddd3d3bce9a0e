package shard_test

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/shard"
)

// awq adds a weight of AWQ's, whose groups are of 128 inputs.
func (s *stored) awq(base string, out, in int64) {
	first := len(s.ix.Tensors)
	s.add(0, 0, base+".qweight", dtype.I32, in, out/8)
	s.add(0, 0, base+".qzeros", dtype.I32, in/128, out/8)
	s.add(1, 0, base+".scales", dtype.F16, in/128, out)
	s.ix.Packed = append(s.ix.Packed, checkpoint.Packed{Name: base + ".weight", Shape: []int64{out, in}, Parts: []int{first, first + 1, first + 2},
		Form: form.Columns{AWQ: true, Bits: 4, Group: 128, Scale: dtype.F16}.Name()})
}

// TestPackedHeld: what comes column by column is one chunk as long as it may
// be held; what is larger stays as it is, and the plan says why.
func TestPackedHeld(t *testing.T) {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Architecture: checkpoint.Architecture{Name: "llama", Heads: 64, KVHeads: 8}}}
	const small, large = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
	s.awq(small, 28672, 8192)  // 120 MB
	s.awq(large, 16384, 53248) // 445 MB
	for _, scheme := range []string{"f16", "int8"} {
		p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: scheme})
		if err != nil {
			t.Fatal(err)
		}
		if p.ReadBytes != p.StoredBytes {
			t.Errorf("%s reads %d of %d bytes", scheme, p.ReadBytes, p.StoredBytes)
		}
		whole := 0
		for _, c := range p.Chunks {
			if x := &p.Tensors[c.Segments[0].Tensor]; x.Name == small+".weight" {
				whole++
				if c.Bytes != x.Bytes || len(c.Also) != 2 || c.Also[1].File != 1 {
					t.Errorf("%s: chunk %+v of %+v", scheme, c, x)
				}
			} else if c.Bytes > shard.MaxChunkBytes {
				t.Errorf("%s: a chunk of %d bytes", scheme, c.Bytes)
			}
		}
		if len(p.Tensors) != 4 || whole != 1 {
			t.Errorf("%s: %d tensors, the first in %d chunks", scheme, len(p.Tensors), whole)
		}
		if len(p.Fallbacks) != 1 || p.Fallbacks[0].Tensor != large+".weight" || !strings.Contains(p.Fallbacks[0].Reason, "column by column") {
			t.Errorf("%s: fallbacks %v", scheme, p.Fallbacks)
		}
	}
}

// TestPackedChunks: chunks end where the scales of a block of rows do, so that
// none is read twice.
func TestPackedChunks(t *testing.T) {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Architecture: checkpoint.Architecture{Name: "llama", Heads: 64, KVHeads: 8}}}
	const name = "model.layers.0.mlp.up_proj.weight"
	s.add(0, 0, name, dtype.F8E4M3, 18432, 7168)
	s.add(0, 0, name+"_scale_inv", dtype.F32, 144, 56)
	s.ix.Packed = []checkpoint.Packed{{Name: name, Shape: []int64{18432, 7168}, Parts: []int{0, 1}, Form: form.Scaled{Scale: dtype.F32, Rows: 128, Cols: 128}.Name()}}
	p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 8}, Scheme: "bf16"})
	if err != nil {
		t.Fatal(err)
	}
	if p.ReadBytes != p.StoredBytes || len(p.Chunks) < 16 {
		t.Errorf("%d chunks read %d of %d bytes", len(p.Chunks), p.ReadBytes, p.StoredBytes)
	}
	for _, c := range p.Chunks {
		if c.Segments[0].Rows.Start%128 != 0 || c.Stored() > p.Options.ChunkBytes {
			t.Errorf("chunk of rows %v, %d bytes", c.Segments[0].Rows, c.Stored())
		}
	}
	// As it is, the scales are cut with their rows: 18 blocks for each rank.
	p, err = shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 8}, Scheme: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Ranks[1].SlicesOf(1)[0]; got.Rows != (shard.Span{Start: 18, Stop: 36}) || len(p.Straddles) > 0 {
		t.Errorf("rank 1 holds rows %v of the scales, straddles %v", got.Rows, p.Straddles)
	}
}
