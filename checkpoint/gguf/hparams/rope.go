package hparams

import (
	"cmp"
	"fmt"
	"math"
)

// Bases of the rotary embedding's frequencies where a config says none:
// transformers' defaults.
var defaultBases = map[string]float64{"gemma3": 1_000_000}

const defaultBase = 10_000

// rope adds how the rotary embedding's frequencies are chosen and, for contexts
// longer than those of the first training, changed. transformers calls the ways
// rope types (modeling_rope_utils.py).
func (b *builder) rope() {
	if b.rotated == 0 || b.wrong != nil {
		return
	}
	scaling := b.sub("rope_scaling")
	newer := b.sub("rope_parameters") // where transformers 5 has both
	if scaling.raw == nil {
		scaling = newer
	}
	base := cmp.Or(b.number("rope_theta", "rotary_emb_base"), newer.number("rope_theta"), defaultBases[b.arch], defaultBase)
	set(b, "rope.freq_base", float32(base))
	factor := scaling.number("factor")
	switch kind := scaling.text("rope_type", "type"); kind {
	case "", "default":
	case "linear":
		set(b, "rope.scaling.type", "linear")
		set(b, "rope.scaling.factor", float32(factor))
	case "yarn":
		set(b, "rope.scaling.type", "yarn")
		set(b, "rope.scaling.factor", float32(factor))
		if n := scaling.count("original_max_position_embeddings"); n > 0 {
			set(b, "rope.scaling.original_context_length", n)
		}
		for _, beta := range []string{"beta_fast", "beta_slow"} {
			if x := scaling.number(beta); x != 0 {
				set(b, "rope.scaling.yarn_"+beta, float32(x))
			}
		}
	case "llama3":
		b.llama3(scaling, base, factor)
	case "longrope", "su":
		b.longRope(scaling)
	default:
		b.warnf("llama.cpp knows no rope scaling of type %q: the file has none, and long contexts may fail", kind)
	}
	for _, f := range []*fields{scaling, newer} {
		b.wrong = cmp.Or(b.wrong, f.wrong)
	}
}

func (b *builder) warnf(format string, args ...any) {
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf(format, args...))
}

// llama3 is Llama 3.1's way: low frequencies are divided by factor, high ones
// kept, those between interpolated (_compute_llama3_parameters). llama.cpp
// divides each frequency by a value of rope_freqs.weight.
func (b *builder) llama3(s *fields, base, factor float64) {
	low, high := cmp.Or(s.number("low_freq_factor"), 1), cmp.Or(s.number("high_freq_factor"), 4)
	old := float64(cmp.Or(s.count("original_max_position_embeddings"), 8192))
	if factor <= 0 || low <= 0 || high <= low || base <= 0 {
		b.reject("rope_scaling.factor", factor, "more than 0, with low_freq_factor under high_freq_factor")
		return
	}
	values := make([]float32, 0, b.rotated/2)
	for i := range b.rotated / 2 {
		wave := 2 * math.Pi * math.Pow(base, float64(2*i)/float64(b.rotated)) // length, in tokens
		divide := factor
		switch {
		case wave < old/high:
			divide = 1
		case wave <= old/low:
			smooth := (old/wave - low) / (high - low)
			divide = 1 / ((1-smooth)/factor + smooth)
		}
		values = append(values, float32(divide))
	}
	b.out.Factors = append(b.out.Factors, Factors{"rope_freqs.weight", values})
}

// longRope is Phi-3's way: a factor for each frequency, of one list in short
// contexts and of another in long ones (_compute_longrope_parameters), and a
// factor on attention that grows with the context.
func (b *builder) longRope(s *fields) {
	long, short := s.numbers("long_factor"), s.numbers("short_factor")
	old := b.count("original_max_position_embeddings")
	if n := int(b.rotated / 2); len(long) != n || len(short) != n || old < 2 {
		if b.wrong == nil {
			b.wrong = b.fail("rope_scaling: %d long and %d short factors for %d frequencies, original_max_position_embeddings is %d", len(long), len(short), n, old)
		}
		return
	}
	b.out.Factors = append(b.out.Factors, Factors{"rope_factors_long.weight", long}, Factors{"rope_factors_short.weight", short})
	grown := float64(b.context) / float64(old)
	attention := 1.0
	if grown > 1 {
		attention = math.Sqrt(1 + math.Log(grown)/math.Log(float64(old)))
	}
	set(b, "rope.scaling.attn_factor", float32(attention))
}
