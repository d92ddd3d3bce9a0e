package shard

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// styles are the words of a base_model_tp_plan that say how a module's weight
// is divided; those of transformers' integrations/tensor_parallel.py. The
// others divide something that Gantry does not, such as a fused weight.
var styles = map[string]Rule{
	"colwise": Colwise, "colwise_rep": Colwise, "colwise_gather_output": Colwise, "local_colwise": Colwise,
	"rowwise": Rowwise, "rowwise_rep": Rowwise, "rowwise_split_input": Rowwise, "local_rowwise": Rowwise,
	"embedding_rowwise": Vocab,
	"replicated":        Replicated, "replicated_with_grad_allreduce": Replicated, "sequence_parallel": Replicated,
	"gather": Replicated, "local": Replicated, "ep_router": Replicated,
}

// tpPlan follows a checkpoint's own plan for tensor parallelism. It decides
// about the modules that it names; the built-in rules do about the others, and
// say where heads are and what place a module has.
type tpPlan struct {
	styles map[string]string // by module: "layers.*.mlp.up_proj"
	used   map[string]bool
}

func newTPPlan(styles map[string]string) *tpPlan {
	return &tpPlan{styles: styles, used: map[string]bool{}}
}

// module returns the plan's name for the module that a tensor belongs to.
// Numbers are stars in it, and what all modules are in may be left out.
func (p *tpPlan) module(tensor string) (string, bool) {
	parts := strings.Split(tensor, ".")
	parts = parts[:len(parts)-1]
	for i, s := range parts {
		if _, err := strconv.ParseUint(s, 10, 31); err == nil {
			parts[i] = "*"
		}
	}
	for from := range min(len(parts), 3) { // "model.language_model." at most
		module := strings.Join(parts[from:], ".")
		if _, ok := p.styles[module]; ok {
			return module, true
		}
	}
	return "", false
}

// follow returns the rule of a tensor by the plan, or the built-in one where
// the plan does not name it.
func (p *tpPlan) follow(tensor string, n name, dims int, r rule, division Rule, ok bool) (rule, Rule, bool) {
	module, named := p.module(tensor)
	if !named {
		return r, division, ok
	}
	p.used[module] = true
	want, known := styles[p.styles[module]]
	if !known {
		return r, division, ok
	}
	built, common := llamaRules[n.module]
	if !common {
		built = rule{at: anywhere}
	}
	if want == Rowwise && built.at == embedding {
		want = Vocab // the rows of an embedding are its inputs
	}
	r = rule{weight: want, bias: Replicated, at: built.at, multiplies: built.linear()}
	switch {
	case want == Colwise && (built.weight == Colwise || built.weight == KVHeads || built.weight == Vocab):
		r = built // which knows of heads
	case want == Colwise:
		r.bias = Colwise
	}
	switch {
	case n.leaf == "bias":
		return r, r.bias, true
	case n.leaf != "weight", r.weight == Rowwise && dims != 2:
		return rule{}, "", false
	}
	return r, r.weight, true
}

// warnings says what of the plan was not followed.
func (p *tpPlan) warnings(warnf func(string, ...any)) {
	var unused, unknown []string
	for _, module := range slices.Sorted(maps.Keys(p.styles)) {
		switch _, known := styles[p.styles[module]]; {
		case !p.used[module]:
			unused = append(unused, module)
		case !known:
			unknown = append(unknown, module+" ("+p.styles[module]+")")
		}
	}
	if len(unused) > 0 {
		warnf("base_model_tp_plan names modules that the checkpoint does not have: %s", some(unused))
	}
	if len(unknown) > 0 {
		warnf("base_model_tp_plan divides %s in ways that this version does not know: the built-in rules are used", some(unknown))
	}
}
