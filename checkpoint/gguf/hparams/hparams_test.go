package hparams

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/recovery"
)

// text writes entries as "key type value", one a line, by way of a file.
func text(t testing.TB, entries []gguf.Entry) string {
	t.Helper()
	_, head, _, err := gguf.Layout(nil, entries)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Parse(bytes.NewReader(head), int64(len(head)))
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	for _, kv := range h.Metadata {
		fmt.Fprintf(&s, "%s %s %s\n", kv.Key, kv.Value.Type, kv.Value)
	}
	return s.String()
}

// stories reads the config.json of stories260K.
func stories(t testing.TB) []byte {
	t.Helper()
	dir := os.Getenv("GANTRY_TESTDATA")
	for at, err := os.Getwd(); dir == "" && err == nil && at != "/"; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "..", "shared", "testdata")); err == nil {
			dir = filepath.Join(at, "..", "shared", "testdata")
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "stories260K", "hf-f32", configFile))
	if err != nil {
		t.Fatalf("no test data: set GANTRY_TESTDATA to its folder: %v", err)
	}
	return b
}

// TestNew: what llama.cpp reads, of each kind of architecture. The values are
// those that its converter writes for these configurations.
func TestNew(t *testing.T) {
	for name, c := range map[string]struct {
		arch, config string
		rows         int64
		want         string
	}{
		"stories260K": {"llama", string(stories(t)), 512, `
llama.context_length u32 512
llama.embedding_length u32 64
llama.block_count u32 5
llama.feed_forward_length u32 172
llama.attention.head_count u32 8
llama.attention.head_count_kv u32 4
llama.attention.layer_norm_rms_epsilon f32 1e-05
llama.vocab_size u32 512
llama.rope.dimension_count u32 8
llama.rope.freq_base f32 10000
`},
		"Qwen3 with YaRN": {"qwen3", `{"max_position_embeddings": 40960, "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072,
			"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
			"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32}}`, 151936, `
qwen3.context_length u32 40960
qwen3.embedding_length u32 1024
qwen3.block_count u32 28
qwen3.feed_forward_length u32 3072
qwen3.attention.head_count u32 16
qwen3.attention.head_count_kv u32 8
qwen3.attention.key_length u32 128
qwen3.attention.value_length u32 128
qwen3.attention.layer_norm_rms_epsilon f32 1e-06
qwen3.vocab_size u32 151936
qwen3.rope.freq_base f32 1e+06
qwen3.rope.scaling.type string yarn
qwen3.rope.scaling.factor f32 4
qwen3.rope.scaling.original_context_length u32 32768
qwen3.rope.scaling.yarn_beta_fast f32 32
`},
		"Mixtral": {"llama", `{"max_position_embeddings": 32768, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32,
			"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": null}`, 0, `
llama.context_length u32 32768
llama.embedding_length u32 4096
llama.block_count u32 32
llama.feed_forward_length u32 14336
llama.attention.head_count u32 32
llama.attention.head_count_kv u32 8
llama.attention.layer_norm_rms_epsilon f32 1e-05
llama.expert_count u32 8
llama.expert_used_count u32 2
llama.rope.dimension_count u32 128
llama.rope.freq_base f32 1e+06
`},
		"Gemma 2": {"gemma2", `{"max_position_embeddings": 8192, "hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216, "num_attention_heads": 8,
			"num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}`, 0, `
gemma2.context_length u32 8192
gemma2.embedding_length u32 2304
gemma2.block_count u32 26
gemma2.feed_forward_length u32 9216
gemma2.attention.head_count u32 8
gemma2.attention.head_count_kv u32 4
gemma2.attention.key_length u32 256
gemma2.attention.value_length u32 256
gemma2.attention.layer_norm_rms_epsilon f32 1e-06
gemma2.attn_logit_softcapping f32 50
gemma2.final_logit_softcapping f32 30
gemma2.attention.sliding_window u32 4096
gemma2.rope.freq_base f32 10000
`},
		"GPT-2": {"gpt2", `{"n_positions": 1024, "n_ctx": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": 1e-5}`, 50257, `
gpt2.context_length u32 1024
gpt2.embedding_length u32 768
gpt2.block_count u32 12
gpt2.feed_forward_length u32 3072
gpt2.attention.head_count u32 12
gpt2.attention.head_count_kv u32 12
gpt2.attention.layer_norm_epsilon f32 1e-05
gpt2.vocab_size u32 50257
`},
		"Phi-3 128k": {"phi3", `{"max_position_embeddings": 64, "original_max_position_embeddings": 8, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 4,
			"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000, "sliding_window": 16, "partial_rotary_factor": 0.5,
			"rope_scaling": {"type": "longrope", "long_factor": [1.5, 2], "short_factor": [1, 1.25]}}`, 0, `
phi3.context_length u32 64
phi3.embedding_length u32 32
phi3.block_count u32 1
phi3.feed_forward_length u32 64
phi3.attention.head_count u32 4
phi3.attention.head_count_kv u32 4
phi3.attention.layer_norm_rms_epsilon f32 1e-05
phi3.rope.dimension_count u32 4
phi3.attention.sliding_window u32 16
phi3.rope.scaling.original_context_length u32 8
phi3.rope.freq_base f32 10000
phi3.rope.scaling.attn_factor f32 1.4142135
`}, // √(1 + ln 8 / ln 8)
	} {
		p, err := New(c.arch, []byte(c.config), c.rows)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := text(t, p.Entries); got != strings.TrimPrefix(c.want, "\n") || len(p.Warnings) > 0 {
			t.Errorf("%s:\n%swant%s%v", name, got, c.want, p.Warnings)
		}
		if strings.HasPrefix(name, "Phi") && (len(p.Factors) != 2 || p.Factors[0].Name != "rope_factors_long.weight" || p.Factors[0].Values[1] != 2 || p.Factors[1].Values[1] != 1.25) {
			t.Errorf("%s: factors %v", name, p.Factors)
		}
	}
}

// TestLlama3: the factors of Llama 3.1, in either place where a config has
// them. Wavelengths under 2,048 tokens are kept, those over 8,192 divided by 8.
func TestLlama3(t *testing.T) {
	const rest = `"max_position_embeddings": 131072, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5`
	const scaling = `"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192`
	for _, config := range []string{
		`{` + rest + `, "rope_theta": 500000.0, "rope_scaling": {` + scaling + `}}`,
		`{` + rest + `, "rope_parameters": {"rope_theta": 500000.0, ` + scaling + `}}`,
	} {
		p, err := New("llama", []byte(config), 128256)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Factors) != 1 || p.Factors[0].Name != "rope_freqs.weight" || len(p.Factors[0].Values) != 64 || p.HeadDim != 128 {
			t.Fatalf("%+v", p)
		}
		between := 0
		for i, got := range p.Factors[0].Values {
			wave := 2 * math.Pi * math.Pow(500_000, float64(i)/64)
			// The frequency is 1/wave; what it becomes lies between it and an
			// eighth of it, in proportion to 8192/wave's way from 1 to 4.
			share := min(max((8192/wave-1)/3, 0), 1)
			want := (1 / wave) / ((1-share)/wave/8 + share/wave)
			if math.Abs(float64(got)-want) > 1e-5*want {
				t.Errorf("factor %d is %g, want %g", i, got, want)
			}
			if got > 1 && got < 8 {
				between++
			}
		}
		if v := p.Factors[0].Values; v[0] != 1 || v[63] != 8 || between == 0 {
			t.Errorf("factors from %g to %g, %d between", v[0], v[63], between)
		}
		if !strings.Contains(text(t, p.Entries), "llama.rope.freq_base f32 500000\n") {
			t.Error(text(t, p.Entries))
		}
	}
}

// TestRefuses: what is missing or makes no sense is said by its field.
func TestRefuses(t *testing.T) {
	base := string(stories(t))
	change := func(old, new string) string { return strings.Replace(base, old, new, 1) }
	for name, c := range map[string]struct {
		arch, config string
		class        recovery.Class
		says         string
	}{
		"another architecture": {"bert", base, recovery.Unsupported, "bert"},
		"no JSON":              {"llama", `[`, recovery.InvalidCheckpoint, configFile},
		"no layers":            {"llama", change(`"num_hidden_layers": 5`, `"x": 5`), recovery.InvalidCheckpoint, "num_hidden_layers"},
		"negative":             {"llama", change(`"hidden_size": 64`, `"hidden_size": -64`), recovery.InvalidCheckpoint, "hidden_size"},
		"a fraction":           {"llama", change(`"hidden_size": 64`, `"hidden_size": 64.5`), recovery.InvalidCheckpoint, "hidden_size"},
		"text":                 {"llama", change(`"hidden_size": 64`, `"hidden_size": "64"`), recovery.InvalidCheckpoint, "hidden_size"},
		"heads":                {"llama", change(`"num_attention_heads": 8`, `"num_attention_heads": 7`), recovery.InvalidCheckpoint, "7 heads"},
		"huge heads":           {"llama", change(`"num_attention_heads"`, `"head_dim": 2147483647, "num_attention_heads"`), recovery.InvalidCheckpoint, "head_dim"},
		"infinite":             {"llama", change(`"rms_norm_eps": 1e-05`, `"rms_norm_eps": 1e300`), recovery.InvalidCheckpoint, "rms_norm_eps"},
		"llama3 without factor": {"llama", change(`"rope_theta"`, `"rope_scaling": {"rope_type": "llama3"}, "rope_theta"`),
			recovery.InvalidCheckpoint, "rope_scaling.factor"},
		"long factors": {"phi3", change(`"rope_theta"`, `"rope_scaling": {"type": "longrope", "long_factor": [1], "short_factor": [1]}, "rope_theta"`),
			recovery.InvalidCheckpoint, "1 long"},
		"text in scaling": {"llama", change(`"rope_theta"`, `"rope_scaling": {"type": 7}, "rope_theta"`), recovery.InvalidCheckpoint, "type"},
	} {
		_, err := New(c.arch, []byte(c.config), 0)
		if recovery.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s and %q", name, err, c.class, c.says)
		}
	}
	p, err := New("llama", []byte(change(`"rope_theta"`, `"rope_scaling": {"type": "dynamic", "factor": 2}, "rope_theta"`)), 0)
	if err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "dynamic") {
		t.Errorf("%v, %v: want a warning of dynamic scaling", p, err)
	}
}

// FuzzNew: whatever a config says, there are keys that a file can have, or an
// error; never a panic.
func FuzzNew(f *testing.F) {
	for arch := range extras {
		f.Add(arch, stories(f))
	}
	f.Add("llama", []byte(`{"rope_scaling": {"rope_type": "llama3", "factor": 8}, "hidden_size": 8, "num_attention_heads": 1}`))
	f.Fuzz(func(t *testing.T, arch string, config []byte) {
		p, err := New(arch, config, 512)
		if err != nil {
			if c := recovery.ClassOf(err); c != recovery.InvalidCheckpoint && c != recovery.Unsupported {
				t.Errorf("class %s: %v", c, err)
			}
			return
		}
		text(t, p.Entries)
	})
}
