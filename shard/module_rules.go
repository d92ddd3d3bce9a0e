package shard

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// ModuleRule says how the tensors of some modules are divided, before what the
// checkpoint's own plan and the built-in rules say.
type ModuleRule struct {
	Pattern string `json:"pattern"` // as quant.ParsePattern reads it
	// Rule is one of Rule's, or "heads": Colwise by whole attention heads. It is
	// for the weight as it is stored; the bias of a Rowwise module is
	// replicated, other biases are divided as the weight.
	Rule Rule `json:"rule"`
	// Place is where in the model modules outside the layers are, for pipeline
	// stages: "embedding", "norm" (the one after all layers) or "head". "" is
	// what the name tells.
	Place string `json:"place,omitempty"`
}

// byHeads is Colwise by whole heads.
const byHeads Rule = "heads"

// ModuleRules are the rules that a ModuleRule may have.
func ModuleRules() []Rule {
	return []Rule{Colwise, Rowwise, PackedColwise, PackedRowwise, byHeads, KVHeads, QKV, Vocab, Replicated}
}

// places are the words for places.
var places = map[string]place{"embedding": embedding, "norm": finalNorm, "head": head}

// Limits of a list of rules: they travel in control messages.
const (
	maxRules     = 256
	maxRuleBytes = 16 << 10
)

// String returns r as a text: PATTERN=RULE.
func (r ModuleRule) String() string { return r.Pattern + "=" + string(r.Rule) }

// ParseModuleRule reads PATTERN=RULE.
func ParseModuleRule(s string) (ModuleRule, error) {
	pattern, name, ok := strings.Cut(s, "=")
	if !ok {
		return ModuleRule{}, usageOf("read rule", "write PATTERN=RULE, such as *.dense_in=colwise", "%.60q has no =", s)
	}
	r := ModuleRule{Pattern: pattern, Rule: Rule(name)}
	_, err := r.compile()
	return r, err
}

// compile checks a rule and returns what its pattern stands for.
func (r ModuleRule) compile() (quant.Pattern, error) {
	p, err := quant.ParsePattern(r.Pattern)
	switch _, known := places[r.Place]; {
	case err != nil:
		return p, err
	case !slices.Contains(ModuleRules(), r.Rule):
		return p, usageOf("read rule", fmt.Sprintf("choose one of %v", ModuleRules()), "%.60q: there is no rule %.60q", r.Pattern, string(r.Rule))
	case r.Place != "" && !known:
		return p, usageOf("read rule", "choose one of "+strings.Join(slices.Sorted(maps.Keys(places)), ", "), "%.60q: there is no place %.60q", r.Pattern, r.Place)
	}
	return p, nil
}

// CheckRules reports, with class usage, a list that is too long or has a rule
// that cannot be read.
func CheckRules(list []ModuleRule) error {
	size := 0
	for _, r := range list {
		if _, err := r.compile(); err != nil {
			return err
		}
		size += len(r.Pattern) + len(r.Rule) + len(r.Place)
	}
	if len(list) > maxRules || size > maxRuleBytes {
		return usageOf("read rules", "write fewer, wider patterns", "%d rules of %d bytes: at most %d of %d are allowed", len(list), size, maxRules, maxRuleBytes)
	}
	return nil
}

func usageOf(op, hint, format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: op, Err: fmt.Errorf(format, args...), Hint: hint}
}

// moduleRule is a ModuleRule at work.
type moduleRule struct {
	ModuleRule
	pattern          quant.Pattern
	matched, decided bool // some tensor's name; how some tensor is divided
}

// moduleRules are the rules of the options.
type moduleRules []moduleRule

func newModuleRules(list []ModuleRule) (moduleRules, error) {
	rules := make(moduleRules, len(list))
	for i, r := range list {
		p, err := r.compile()
		if err != nil {
			return nil, err
		}
		rules[i] = moduleRule{ModuleRule: r, pattern: p}
	}
	return rules, nil
}

// first returns the first rule that matches a tensor, nil without one.
func (rules moduleRules) first(tensor string) *ModuleRule {
	var first *moduleRule
	for i := range rules {
		r := &rules[i]
		if first != nil && r.matched || !r.pattern.Match(tensor) {
			continue // later ones are looked at only to know which match nothing
		}
		r.matched = true
		if first == nil {
			first = r
		}
	}
	if first == nil {
		return nil
	}
	first.decided = true
	return &first.ModuleRule
}

// follow returns the rule that r gives a tensor with dims dimensions (of one
// expert), and its division, where it had another one, or none.
func (r *ModuleRule) follow(leaf string, dims int, was rule, known bool) (own rule, division Rule) {
	own = rule{weight: r.Rule, bias: r.Rule, at: was.at}
	switch {
	case !known:
		own.at = anywhere
	case r.Rule == Colwise && was.heads: // heads stay whole
		own.heads = true
	}
	if r.Rule == byHeads {
		own.weight, own.bias, own.heads = Colwise, Colwise, true
	}
	if at, said := places[r.Place]; said {
		own.at = at
	}
	if columns := own.weight == Rowwise || own.weight == PackedRowwise; columns && (leaf == "bias" || dims < 2) {
		own.bias = Replicated
		return own, Replicated
	}
	return own, own.weight
}

// warnings names the rules that decided nothing.
func (rules moduleRules) warnings(warnf func(string, ...any)) {
	for i, r := range rules {
		switch {
		case !r.matched:
			warnf("rule %d, %s, matches no tensor", i+1, r)
		case !r.decided:
			warnf("rule %d, %s, changes nothing: others before it match all of its tensors", i+1, r)
		}
	}
}
