package synth

import (
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// Dims are the dimensions of a Llama model, in the words of config.json.
type Dims struct {
	Hidden       int64 `json:"hidden"`
	Intermediate int64 `json:"intermediate"`
	Layers       int64 `json:"layers"`
	Heads        int64 `json:"heads"`
	KVHeads      int64 `json:"kv_heads"`
	HeadDim      int64 `json:"head_dim"`
	Vocab        int64 `json:"vocab"`
	Tied         bool  `json:"tied_embeddings"` // no lm_head: the embedding is the head
}

// parameters counts the model's elements.
func (d Dims) parameters() int64 {
	tables := int64(2)
	if d.Tied {
		tables = 1
	}
	return tables*d.Vocab*d.Hidden + d.Layers*d.layer() + d.Hidden
}

// layer counts one layer's elements.
func (d Dims) layer() int64 {
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	return d.Hidden*(2*q+2*kv) + 3*d.Hidden*d.Intermediate + 2*d.Hidden
}

// Steps of the dimensions that are picked.
const (
	hiddenStep = 256
	mlpStep    = 256
	vocabStep  = 64
	maxHidden  = 16384
)

// pick returns dimensions of about the given size in bytes with proportions
// like those of published Llamas: as many layers as hidden/128, an
// intermediate size of 3 times hidden (2.7 to 4 are seen), a vocabulary of
// 32,000 entries or, in small models, a quarter of the parameters. All is
// integer arithmetic, so that every machine picks the same.
func pick(size int64, t dtype.Type) (Dims, error) {
	want := size / int64(t.Size())
	best, bestCost := Dims{}, int64(-1)
	for hidden := int64(hiddenStep); hidden <= maxHidden; hidden += step(hidden) {
		for layers := max(1, hidden/256); layers <= max(2, hidden/64); layers++ {
			d := proportion(want, hidden, layers)
			off := 1000 * abs(d.parameters()-want) / want // in 1/1000 of the size
			if off > 15 || d.Vocab < vocabStep || d.Intermediate < mlpStep {
				continue
			}
			cost := 4*off + ratio(128*layers, hidden) + ratio(d.Intermediate, 3*hidden) + ratio(d.Vocab, usualVocab(want, hidden))
			if bestCost < 0 || cost < bestCost {
				best, bestCost = d, cost
			}
		}
	}
	if bestCost < 0 {
		return Dims{}, recovery.Errorf(recovery.Usage,
			"no Llama of realistic proportions has %d bytes of %s: ask for about 1 MiB to 1 TiB, or give a config", size, t)
	}
	return best, nil
}

// step returns what to add to hidden for the next candidate. Wide models keep
// many heads, and so stay divisible by the usual numbers of ranks.
func step(hidden int64) int64 {
	switch {
	case hidden < 1024:
		return hiddenStep
	case hidden < 4096:
		return 2 * hiddenStep
	}
	return 4 * hiddenStep
}

// proportion completes hidden and layers: the intermediate size takes what
// attention and the usual vocabulary leave, the vocabulary what is left then.
func proportion(want, hidden, layers int64) Dims {
	d := Dims{Hidden: hidden, Layers: layers, HeadDim: 64}
	if hidden > 2048 {
		d.HeadDim = 128
	}
	d.Heads = hidden / d.HeadDim
	d.KVHeads = kvHeads(d.Heads)
	d.Vocab = usualVocab(want, hidden)
	rest := want - d.parameters()
	d.Intermediate = (rest/(3*hidden*layers) + mlpStep/2) / mlpStep * mlpStep
	d.Intermediate = min(max(d.Intermediate, mlpStep), 4*hidden)
	rest = want - d.parameters()
	d.Vocab += rest / (2 * hidden) / vocabStep * vocabStep
	return d
}

// kvHeads returns the largest power of two up to 8 that divides heads and is
// smaller.
func kvHeads(heads int64) int64 {
	n := int64(8)
	for n > 1 && (heads%n != 0 || n >= heads) {
		n /= 2
	}
	return n
}

func usualVocab(parameters, hidden int64) int64 {
	return min(max(parameters/4/(2*hidden)/vocabStep, 1), 500) * vocabStep
}

// ratio returns how far a is from b, in 1/1000 of the smaller one.
func ratio(a, b int64) int64 {
	return 1000*max(a, b)/max(1, min(a, b)) - 1000
}

func abs(n int64) int64 { return max(n, -n) }
