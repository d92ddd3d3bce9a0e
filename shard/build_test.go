package shard_test

import (
	"fmt"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// TestBuildInvalid gives Build indexes that no reader should have let through.
func TestBuildInvalid(t *testing.T) {
	files := []source.File{{Name: "a", Size: 100}}
	good := checkpoint.Tensor{Name: "x", DType: dtype.F32, Shape: []int64{2, 3}, Offset: 4, Bytes: 24}
	for name, change := range map[string]func(*checkpoint.Tensor){
		"bytes":       func(t *checkpoint.Tensor) { t.Bytes = 20 },
		"negative":    func(t *checkpoint.Tensor) { t.Shape = []int64{2, -3} },
		"overflow":    func(t *checkpoint.Tensor) { t.Shape = []int64{1 << 40, 1 << 40} },
		"type":        func(t *checkpoint.Tensor) { t.DType, t.Bytes = dtype.Invalid, 0 },
		"half a byte": func(t *checkpoint.Tensor) { t.DType, t.Shape, t.Bytes = dtype.F4, []int64{3}, 1 },
		"file":        func(t *checkpoint.Tensor) { t.File = 1 },
		"file -1":     func(t *checkpoint.Tensor) { t.File = -1 },
		"offset":      func(t *checkpoint.Tensor) { t.Offset = 80 },
		"offset -1":   func(t *checkpoint.Tensor) { t.Offset = -1 },
		"form":        func(t *checkpoint.Tensor) { t.Form = "interleaved:3" },
		"no form":     func(t *checkpoint.Tensor) { t.Form = "x" },
	} {
		bad := good
		change(&bad)
		_, err := shard.Build(&checkpoint.Index{Files: files, Tensors: []checkpoint.Tensor{bad}}, shard.Options{})
		if recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("%s: %v, want an error of class invalid_checkpoint", name, err)
		}
	}
	_, err := shard.Build(&checkpoint.Index{Files: files, Tensors: []checkpoint.Tensor{good, good}}, shard.Options{})
	if recovery.ClassOf(err) != recovery.InvalidCheckpoint {
		t.Errorf("twice: %v, want an error of class invalid_checkpoint", err)
	}
	huge := &checkpoint.Index{Files: []source.File{{Name: "a", Size: 1 << 50}},
		Tensors: []checkpoint.Tensor{{Name: "x", DType: dtype.U8, Shape: []int64{1 << 50}, Bytes: 1 << 50}}}
	if _, err := shard.Build(huge, shard.Options{}); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("huge: %v, want an error of class unsupported", err)
	}
}

// wide is a Llama of the given size.
func wide(layers, hidden int64) *stored {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Architecture: checkpoint.Architecture{Name: "llama", Heads: 64, KVHeads: 8}}}
	s.add(0, 0, "model.embed_tokens.weight", dtype.BF16, 4*hidden, hidden)
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		s.add(int(l), 0, p+"input_layernorm.weight", dtype.BF16, hidden)
		s.add(int(l), 0, p+"self_attn.q_proj.weight", dtype.BF16, hidden, hidden)
		s.add(int(l), 0, p+"self_attn.k_proj.weight", dtype.BF16, hidden/8, hidden)
		s.add(int(l), 0, p+"self_attn.v_proj.weight", dtype.BF16, hidden/8, hidden)
		s.add(int(l), 0, p+"self_attn.o_proj.weight", dtype.BF16, hidden, hidden)
		s.add(int(l), 0, p+"mlp.gate_proj.weight", dtype.BF16, 4*hidden, hidden)
		s.add(int(l), 0, p+"mlp.up_proj.weight", dtype.BF16, 4*hidden, hidden)
		s.add(int(l), 0, p+"mlp.down_proj.weight", dtype.BF16, hidden, 4*hidden)
	}
	s.add(0, 0, "lm_head.weight", dtype.BF16, 4*hidden, hidden)
	return s
}

// BenchmarkBuild plans about 100,000 chunks; the time per chunk should not
// depend on how many there are.
func BenchmarkBuild(b *testing.B) {
	for _, layers := range []int64{3, 30} {
		for _, tp := range []int{1, 8} {
			s := wide(layers, 4096)
			b.Run(fmt.Sprintf("layers=%d/tp=%d", layers, tp), func(b *testing.B) {
				b.ReportAllocs()
				var chunks int
				for b.Loop() {
					p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: tp}, Scheme: "q8_0", ChunkBytes: shard.MinChunkBytes})
					if err != nil {
						b.Fatal(err)
					}
					chunks = len(p.Chunks)
				}
				b.ReportMetric(float64(chunks), "chunks")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(chunks), "ns/chunk")
			})
		}
	}
}

// BenchmarkDigest writes and hashes a plan of the same size.
func BenchmarkDigest(b *testing.B) {
	p, err := shard.Build(wide(30, 4096).ix, shard.Options{Layout: shard.Layout{TP: 8}, Scheme: "q8_0", ChunkBytes: shard.MinChunkBytes})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Digest()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(p.Chunks)), "ns/chunk")
}
