package testllama

import (
	"encoding/json"
	"fmt"
	"math"
)

// Config is what the forward pass needs of a Hugging Face config.json.
type Config struct {
	Hidden  int     `json:"hidden_size"`
	Layers  int     `json:"num_hidden_layers"`
	Heads   int     `json:"num_attention_heads"`
	KVHeads int     `json:"num_key_value_heads"`
	Eps     float64 `json:"rms_norm_eps"`
	Theta   float64 `json:"rope_theta"`
}

// ParseConfig reads a config.json.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	err := json.Unmarshal(b, &c)
	if err == nil && (c.Heads == 0 || c.KVHeads == 0 || c.Hidden%c.Heads != 0) {
		err = fmt.Errorf("testllama: %d hidden, %d heads, %d kv heads", c.Hidden, c.Heads, c.KVHeads)
	}
	return c, err
}

// Weights returns a tensor's values by its Hugging Face name, row-major.
type Weights func(name string) ([]float32, error)

// Model is a Llama with the keys and values of the tokens seen so far.
type Model struct {
	c      Config
	embed  []float32
	norm   []float32
	layers []layer
	pos    int
}

type layer struct {
	attnNorm, mlpNorm   []float32
	q, k, v, o          []float32
	gate, up, down      []float32
	keys, values        [][]float32
	headSize, groupSize int
}

// New reads all weights.
func New(c Config, w Weights) (*Model, error) {
	m := &Model{c: c}
	var err error
	get := func(name string) []float32 {
		v, e := w(name + ".weight")
		if e != nil && err == nil {
			err = e
		}
		return v
	}
	m.embed, m.norm = get("model.embed_tokens"), get("model.norm")
	for i := range c.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		m.layers = append(m.layers, layer{
			attnNorm: get(p + "input_layernorm"), mlpNorm: get(p + "post_attention_layernorm"),
			q: get(p + "self_attn.q_proj"), k: get(p + "self_attn.k_proj"), v: get(p + "self_attn.v_proj"), o: get(p + "self_attn.o_proj"),
			gate: get(p + "mlp.gate_proj"), up: get(p + "mlp.up_proj"), down: get(p + "mlp.down_proj"),
			headSize: c.Hidden / c.Heads, groupSize: c.Heads / c.KVHeads,
		})
	}
	return m, err
}

// Step takes the next token and returns the logits of the one after it. The
// head is tied to the embedding.
func (m *Model) Step(token int) []float32 {
	h := m.c.Hidden
	x := append([]float32(nil), m.embed[token*h:(token+1)*h]...)
	for i := range m.layers {
		l := &m.layers[i]
		add(x, l.attention(rms(x, l.attnNorm, m.c.Eps), m.pos, m.c.Theta))
		add(x, l.mlp(rms(x, l.mlpNorm, m.c.Eps)))
	}
	m.pos++
	return mul(m.embed, rms(x, m.norm, m.c.Eps))
}

// Greedy feeds the prompt and returns the n most likely tokens that follow,
// and the logits after each prompt token.
func (m *Model) Greedy(prompt []int, n int) (ids []int, prompted [][]float32) {
	var logits []float32
	for _, t := range prompt {
		logits = m.Step(t)
		prompted = append(prompted, logits)
	}
	for len(ids) < n {
		best := 0
		for i, v := range logits {
			if v > logits[best] {
				best = i
			}
		}
		ids = append(ids, best)
		if len(ids) < n {
			logits = m.Step(best)
		}
	}
	return ids, prompted
}

// attention attends to all tokens so far, this one included. Several query
// heads share a key head (GQA).
func (l *layer) attention(x []float32, pos int, theta float64) []float32 {
	q, k := mul(l.q, x), mul(l.k, x)
	rope(q, l.headSize, pos, theta)
	rope(k, l.headSize, pos, theta)
	l.keys, l.values = append(l.keys, k), append(l.values, mul(l.v, x))
	out := make([]float32, len(q))
	scores := make([]float64, len(l.keys))
	for head := 0; head*l.headSize < len(q); head++ {
		at, kv := head*l.headSize, head/l.groupSize*l.headSize
		most := math.Inf(-1)
		for t := range l.keys {
			scores[t] = dot(q[at:at+l.headSize], l.keys[t][kv:kv+l.headSize]) / math.Sqrt(float64(l.headSize))
			most = max(most, scores[t])
		}
		var sum float64
		for t := range scores {
			scores[t] = math.Exp(scores[t] - most)
			sum += scores[t]
		}
		for i := range l.headSize {
			var v float64
			for t := range scores {
				v += scores[t] / sum * float64(l.values[t][kv+i])
			}
			out[at+i] = float32(v)
		}
	}
	return mul(l.o, out)
}

// mlp is SwiGLU.
func (l *layer) mlp(x []float32) []float32 {
	g, u := mul(l.gate, x), mul(l.up, x)
	for i := range g {
		g[i] = float32(float64(g[i]) / (1 + math.Exp(-float64(g[i]))) * float64(u[i]))
	}
	return mul(l.down, g)
}

// rope rotates each head's halves against each other, as Hugging Face lays
// them out.
func rope(x []float32, head, pos int, theta float64) {
	for at := 0; at < len(x); at += head {
		for i := range head / 2 {
			sin, cos := math.Sincos(float64(pos) * math.Pow(theta, -2*float64(i)/float64(head)))
			a, b := float64(x[at+i]), float64(x[at+i+head/2])
			x[at+i], x[at+i+head/2] = float32(a*cos-b*sin), float32(b*cos+a*sin)
		}
	}
}

// rms is RMSNorm with gain g.
func rms(x, g []float32, eps float64) []float32 {
	scale := 1 / math.Sqrt(dot(x, x)/float64(len(x))+eps)
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(float64(v) * scale * float64(g[i]))
	}
	return out
}

// mul returns w·x for w of len(w)/len(x) × len(x).
func mul(w, x []float32) []float32 {
	out := make([]float32, len(w)/len(x))
	for i := range out {
		out[i] = float32(dot(w[i*len(x):(i+1)*len(x)], x))
	}
	return out
}

func dot(a, b []float32) float64 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func add(x, y []float32) {
	for i := range x {
		x[i] += y[i]
	}
}
