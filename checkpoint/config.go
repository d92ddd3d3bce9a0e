package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/gantry-ml/gantry/recovery"
)

// config is what Gantry reads of a Hugging Face config.json.
type config struct {
	ModelType string `json:"model_type"`
	fields    json.RawMessage
}

// llamaConfig are the fields of the Llama family. Null and missing are zero.
type llamaConfig struct {
	Hidden         int64    `json:"hidden_size"`
	Intermediate   int64    `json:"intermediate_size"`
	Layers         int64    `json:"num_hidden_layers"`
	Heads          int64    `json:"num_attention_heads"`
	KVHeads        int64    `json:"num_key_value_heads"`
	HeadDim        int64    `json:"head_dim"`
	Vocab          int64    `json:"vocab_size"`
	Context        int64    `json:"max_position_embeddings"`
	RopeTheta      float64  `json:"rope_theta"`
	RopeParameters struct { // where newer versions of transformers write it
		RopeTheta float64 `json:"rope_theta"`
	} `json:"rope_parameters"`
	NormEps        float64 `json:"rms_norm_eps"`
	TiedEmbeddings bool    `json:"tie_word_embeddings"`
}

// maxDimension bounds what a config may claim, so that products of three of
// its numbers do not overflow.
const maxDimension = 1 << 20

// parseConfig reads a config.json as StandardJSON makes it.
func parseConfig(data []byte) (config, error) {
	data = StandardJSON(data)
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return config{}, invalid(configName, "not a model's configuration: %w", err)
	}
	c.fields = data
	return c, nil
}

// quantized reports whether the weights are packed by a quantizer.
func (c config) quantized() bool {
	var q struct {
		Config json.RawMessage `json:"quantization_config"`
	}
	// parseConfig has read the same bytes, and any value fits.
	return c.fields != nil && json.Unmarshal(c.fields, &q) == nil && len(q.Config) > 0 && string(q.Config) != "null"
}

// Limits on a plan for tensor parallelism.
const (
	maxTPPlan     = 4096 // modules
	maxTPPlanText = 256  // bytes of a module's name, or of its style
)

// tpPlan is a plan that is read only if it is not too large.
type tpPlan map[string]string

// UnmarshalJSON refuses more modules than a model can have.
func (p *tpPlan) UnmarshalJSON(text []byte) error {
	if n := bytes.Count(text, []byte{':'}); n > maxTPPlan {
		return fmt.Errorf("%d modules, at most %d are allowed", n, maxTPPlan)
	}
	return json.Unmarshal(text, (*map[string]string)(p))
}

// tpPlan returns the base_model_tp_plan, nil where there is none. transformers
// keeps it in a model's class; a config.json may carry it.
func (c config) tpPlan() (map[string]string, error) {
	var p struct {
		Plan tpPlan `json:"base_model_tp_plan"`
	}
	if err := json.Unmarshal(c.fields, &p); err != nil {
		return nil, invalid(configName, "base_model_tp_plan: %w", err)
	}
	for module, style := range p.Plan {
		if len(module) > maxTPPlanText || len(style) > maxTPPlanText {
			return nil, invalid(configName, "base_model_tp_plan: %.40q: a name over %d bytes", module, maxTPPlanText)
		}
	}
	return p.Plan, nil
}

// fill sets what a config of the Llama family says, and the defaults that
// transformers has for what it leaves out.
func (c config) fill(a *Architecture) error {
	if c.fields == nil {
		return nil
	}
	var l llamaConfig
	if err := json.Unmarshal(c.fields, &l); err != nil {
		return invalid(configName, "not the configuration of a %s model: %w", c.ModelType, err)
	}
	for _, f := range []struct {
		name  string
		value int64
		limit int64
	}{
		{"hidden_size", l.Hidden, maxDimension},
		{"intermediate_size", l.Intermediate, maxDimension},
		{"num_hidden_layers", l.Layers, maxDimension},
		{"num_attention_heads", l.Heads, maxDimension},
		{"num_key_value_heads", l.KVHeads, maxDimension},
		{"head_dim", l.HeadDim, maxDimension},
		{"vocab_size", l.Vocab, math.MaxInt32},
		{"max_position_embeddings", l.Context, math.MaxInt32},
	} {
		if f.value < 0 || f.value > f.limit {
			return invalid(configName, "%s is %d, want 0 to %d", f.name, f.value, f.limit)
		}
	}
	if l.KVHeads == 0 {
		l.KVHeads = l.Heads
	}
	if l.Heads > 0 && l.Heads%l.KVHeads != 0 {
		return invalid(configName, "%d attention heads cannot share %d key-value heads", l.Heads, l.KVHeads)
	}
	if l.HeadDim == 0 && l.Heads > 0 {
		if l.Hidden%l.Heads != 0 {
			return invalid(configName, "hidden_size %d does not divide into %d attention heads, and there is no head_dim", l.Hidden, l.Heads)
		}
		l.HeadDim = l.Hidden / l.Heads
	}
	name := a.Name
	*a = Architecture{
		Name: name, Layers: l.Layers, Hidden: l.Hidden, Intermediate: l.Intermediate,
		Heads: l.Heads, KVHeads: l.KVHeads, HeadDim: l.HeadDim, Vocab: l.Vocab, Context: l.Context,
		RopeTheta: cmp.Or(l.RopeTheta, l.RopeParameters.RopeTheta, 10_000), NormEps: cmp.Or(l.NormEps, 1e-6),
		TiedEmbeddings: l.TiedEmbeddings,
	}
	return nil
}

// ParseConfig returns what the config.json of a Llama-family model says.
// Parameters is 0, and so is what the config leaves to the shapes.
// Errors: invalid_checkpoint; unsupported for other models.
func ParseConfig(data []byte) (Architecture, error) {
	c, err := parseConfig(data)
	if err != nil {
		return Architecture{}, err
	}
	if !slices.Contains(family, c.ModelType) {
		return Architecture{}, recovery.Errorf(recovery.Unsupported, "%s: model_type %q is not of the Llama family", configName, c.ModelType)
	}
	a := Architecture{Name: c.ModelType}
	err = c.fill(&a)
	return a, err
}
