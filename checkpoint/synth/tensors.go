package synth

import (
	"fmt"
	"math"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
)

// weight is a tensor to write and how its elements are distributed:
// mean + std × a standard normal.
type weight struct {
	safetensors.Tensor
	mean, std float64
}

// rows and cols see a vector as one row.
func (w weight) rows() int64 {
	if len(w.Shape) == 1 {
		return 1
	}
	return w.Shape[0]
}

func (w weight) cols() int64 { return w.Shape[len(w.Shape)-1] }

// embedStd is the deviation that Llamas' embeddings are initialized with
// (initializer_range of config.json).
const embedStd = 0.02

// weights lists the tensors of a Llama in the order of its layers, with
// deviations like those of trained ones: 1/√fan_in, and smaller by √(2 ×
// layers) for what adds to the residual stream.
func (d Dims) weights(t dtype.Type) []weight {
	var list []weight
	add := func(name string, mean, std float64, shape ...int64) {
		list = append(list, weight{safetensors.Tensor{Name: name, DType: t, Shape: shape}, mean, std})
	}
	fanIn := func(n int64) float64 { return 1 / math.Sqrt(float64(n)) }
	residual := fanIn(2 * d.Layers)
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	add("model.embed_tokens.weight", 0, embedStd, d.Vocab, d.Hidden)
	for i := range d.Layers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		add(layer+"input_layernorm.weight", 1, 0.05, d.Hidden)
		add(layer+"self_attn.q_proj.weight", 0, fanIn(d.Hidden), q, d.Hidden)
		add(layer+"self_attn.k_proj.weight", 0, fanIn(d.Hidden), kv, d.Hidden)
		add(layer+"self_attn.v_proj.weight", 0, fanIn(d.Hidden), kv, d.Hidden)
		add(layer+"self_attn.o_proj.weight", 0, fanIn(q)*residual, d.Hidden, q)
		add(layer+"post_attention_layernorm.weight", 1, 0.05, d.Hidden)
		add(layer+"mlp.gate_proj.weight", 0, fanIn(d.Hidden), d.Intermediate, d.Hidden)
		add(layer+"mlp.up_proj.weight", 0, fanIn(d.Hidden), d.Intermediate, d.Hidden)
		add(layer+"mlp.down_proj.weight", 0, fanIn(d.Intermediate)*residual, d.Hidden, d.Intermediate)
	}
	add("model.norm.weight", 1, 0.05, d.Hidden)
	if !d.Tied {
		add("lm_head.weight", 0, embedStd, d.Vocab, d.Hidden)
	}
	return list
}
