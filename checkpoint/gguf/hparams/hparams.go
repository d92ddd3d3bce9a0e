package hparams

import (
	"cmp"
	"fmt"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/recovery"
)

// configFile names the file in errors.
const configFile = "config.json"

// Params is what a GGUF file says of a model.
type Params struct {
	Entries []gguf.Entry
	// Factors are those of the rotary embedding's frequencies, one for each
	// pair of elements that it turns, by the name of their tensor.
	Factors []Factors
	// HeadDim is the number of rows of one head of a query or key projection.
	HeadDim int64
	// Warnings say what the file cannot say, one line each.
	Warnings []string
}

// Factors is a tensor of F32 that the checkpoint does not store.
type Factors struct {
	Name   string
	Values []float32
}

// New returns what the config.json of a model says, under the keys of arch,
// GGUF's name of the architecture. rows is the number of the embedding's rows.
// It knows the architectures of package names, but bert.
//
// Errors: invalid_checkpoint where a field is missing or makes no sense;
// unsupported.
func New(arch string, config []byte, rows int64) (*Params, error) {
	more, known := extras[arch]
	if !known {
		return nil, &recovery.Error{Class: recovery.Unsupported, Op: "export", File: configFile,
			Err: fmt.Errorf("%s models cannot be written as GGUF in this version", arch), Hint: "export to safetensors"}
	}
	f, err := parseFields(configFile, config)
	if err != nil {
		return nil, err
	}
	b := &builder{fields: f, arch: arch, rows: rows}
	b.common()
	if more != nil {
		more(b)
	}
	b.rope()
	return &b.out, b.wrong
}

type builder struct {
	*fields
	arch    string
	rows    int64
	rotated uint32 // elements of a head that the rotary embedding turns
	context uint32
	out     Params
}

// set adds a key of the architecture.
func set[T gguf.Scalar](b *builder, key string, value T) {
	b.out.Entries = append(b.out.Entries, gguf.NewEntry(b.arch+"."+key, value))
}

// setCount adds a key for a count, unless the config leaves it out.
func (b *builder) setCount(key string, names ...string) uint32 {
	n := b.count(names...)
	if n > 0 {
		set(b, key, n)
	}
	return n
}

// setNumber adds a key for a number, unless the config leaves it out.
func (b *builder) setNumber(key string, names ...string) {
	if x := b.number(names...); x != 0 {
		set(b, key, float32(x))
	}
}

// need adds a key for a count that must be there.
func (b *builder) need(key string, names ...string) uint32 {
	n := b.setCount(key, names...)
	if n == 0 && b.wrong == nil {
		b.wrong = b.fail("%s is missing or 0", names[0])
	}
	return n
}

// maxHead bounds the elements of a head. Models have 64 to 256.
const maxHead = 1 << 16

// common adds what most architectures have, under the names that their
// configurations use.
func (b *builder) common() {
	b.context = b.need("context_length", "max_position_embeddings", "n_positions", "n_ctx")
	hidden := b.need("embedding_length", "hidden_size", "n_embd")
	b.need("block_count", "num_hidden_layers", "n_layer")
	inner := b.count("intermediate_size", "n_inner")
	if inner == 0 && hidden <= 1<<29 { // GPT-2 and Phi-2 leave it out
		inner = 4 * hidden
	}
	set(b, "feed_forward_length", inner)
	heads := b.need("attention.head_count", "num_attention_heads", "n_head")
	kv := cmp.Or(b.count("num_key_value_heads"), heads)
	set(b, "attention.head_count_kv", kv)
	head := b.setCount("attention.key_length", "head_dim")
	if head > 0 {
		set(b, "attention.value_length", head)
	}
	if b.wrong == nil && (heads%kv != 0 || head == 0 && hidden%heads != 0) {
		b.wrong = b.fail("%d elements and %d key-value heads do not divide into %d heads", hidden, kv, heads)
	}
	if b.wrong != nil {
		return
	}
	if b.rotated = cmp.Or(head, hidden/heads); b.rotated > maxHead {
		b.reject("head_dim", float64(b.rotated), fmt.Sprintf("at most %d", maxHead))
		return
	}
	b.out.HeadDim = int64(b.rotated)
	b.setNumber("attention.layer_norm_rms_epsilon", "rms_norm_eps")
	b.setNumber("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
	b.setCount("expert_count", "num_local_experts", "num_experts")
	b.setCount("expert_used_count", "num_experts_per_tok")
	if b.rows > 0 {
		set(b, "vocab_size", uint32(b.rows))
	}
}

// extras are what an architecture has besides; nil is nothing.
var extras = map[string]func(*builder){
	"llama":      (*builder).rotatesAll,
	"smollm3":    (*builder).rotatesAll,
	"qwen2":      nil,
	"qwen3":      nil,
	"olmo2":      nil,
	"starcoder2": nil,
	"gpt2":       func(b *builder) { b.rotated = 0 },
	"granite": func(b *builder) {
		b.rotatesAll()
		b.setNumber("attention.scale", "attention_multiplier")
		b.setNumber("embedding_scale", "embedding_multiplier")
		b.setNumber("residual_scale", "residual_multiplier")
		b.setNumber("logit_scale", "logits_scaling")
	},
	"qwen2moe": func(b *builder) {
		b.setCount("expert_feed_forward_length", "moe_intermediate_size")
		b.setCount("expert_shared_feed_forward_length", "shared_expert_intermediate_size")
	},
	"qwen3moe": func(b *builder) { b.setCount("expert_feed_forward_length", "moe_intermediate_size") },
	"gemma":    nil,
	"gemma2": func(b *builder) {
		b.setNumber("attn_logit_softcapping", "attn_logit_softcapping")
		b.setNumber("final_logit_softcapping", "final_logit_softcapping")
		b.setCount("attention.sliding_window", "sliding_window")
	},
	"gemma3": func(b *builder) {
		b.setNumber("final_logit_softcapping", "final_logit_softcapping")
		b.setCount("attention.sliding_window", "sliding_window")
		b.setNumber("rope.freq_base_swa", "rope_local_base_freq")
	},
	"phi2": (*builder).rotatesPart,
	"phi3": func(b *builder) {
		b.rotatesPart()
		b.setCount("attention.sliding_window", "sliding_window")
		if n := b.count("original_max_position_embeddings"); n > 0 {
			set(b, "rope.scaling.original_context_length", n)
		}
	},
	"stablelm": func(b *builder) {
		b.rotatesPart()
		var parallel bool
		b.get(&parallel, "use_parallel_residual")
		set(b, "use_parallel_residual", parallel)
	},
}

// rotatesAll says that the rotary embedding turns all of a head.
func (b *builder) rotatesAll() { set(b, "rope.dimension_count", b.rotated) }

// rotatesPart is for models where it may turn the head's beginning only.
func (b *builder) rotatesPart() {
	if part := b.number("partial_rotary_factor", "rotary_pct"); part > 0 && part <= 1 {
		b.rotated = uint32(part * float64(b.rotated))
	}
	set(b, "rope.dimension_count", b.rotated)
}
