package shard

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// styles are the words of a base_model_tp_plan, or base_model_ep_plan, that say
// how a module's weight, or a parameter, is divided; those of transformers'
// integrations/tensor_parallel.py (ALL_PARALLEL_STYLES), old and new. Some are
// about what a module does with its inputs and outputs, and divide nothing:
// "moe_tp_experts" is the module around experts whose parameters have styles of
// their own. "grouped_gemm" divides experts whole, which ep does.
var styles = map[string]Rule{
	"colwise": Colwise, "colwise_rep": Colwise, "colwise_gather_output": Colwise, "local_colwise": Colwise,
	"rowwise": Rowwise, "rowwise_rep": Rowwise, "rowwise_split_input": Rowwise, "local_rowwise": Rowwise,
	"packed_colwise": PackedColwise, "local_packed_colwise": PackedColwise, "moe_tp_gate_up_colwise": PackedColwise,
	"packed_rowwise": PackedRowwise, "local_packed_rowwise": PackedRowwise, "moe_tp_down_rowwise": Rowwise,
	"embedding_rowwise": Vocab, "embedding_colwise": Rowwise,
	"replicated": Replicated, "replicate": Replicated, "replicated_with_grad_allreduce": Replicated, "sequence_parallel": Replicated,
	"gather": Replicated, "local": Replicated, "all_reduce": Replicated,
	"grouped_gemm": Replicated, "ep_router": Replicated, "megamoe_router": Replicated,
	"moe_tp_experts": Replicated, "megamoe_experts": Replicated, "moe_identity_expert": Replicated, "ep_dispatch_experts": Replicated,
	"mla_kv_a_proj": Replicated,
}

// tpPlan follows a checkpoint's own plan for tensor parallelism. It decides
// about the modules that it names; the built-in rules do about the others, and
// say where heads are and what place a module has.
type tpPlan struct {
	styles map[string]string // by module: "layers.*.mlp.up_proj", or by parameter: "layers.*.mlp.experts.gate_up_proj"
	used   map[string]bool
}

func newTPPlan(styles map[string]string) *tpPlan {
	return &tpPlan{styles: styles, used: map[string]bool{}}
}

// key returns the plan's name for a tensor, or for the module that it belongs
// to. Numbers are stars in it, and what all modules are in may be left out.
func (p *tpPlan) key(tensor string) (key string, ok bool) {
	if len(p.styles) == 0 {
		return "", false
	}
	parts := strings.Split(tensor, ".")
	for i, s := range parts {
		if _, err := strconv.ParseUint(s, 10, 31); err == nil {
			parts[i] = "*"
		}
	}
	for to := len(parts); to > 0; to-- {
		for from := range min(to, 3) { // "model.language_model." at most
			name := strings.Join(parts[from:to], ".")
			if _, ok := p.styles[name]; !ok {
				continue
			}
			p.used[name] = true // also of what is only in it
			if key == "" && to >= len(parts)-1 {
				key = name
			}
		}
	}
	return key, key != ""
}

// follow returns the rule of a tensor by the plan, or the built-in one where
// the plan does not name it. dims are those of one expert.
func (p *tpPlan) follow(tensor string, n name, dims int, built rule, division Rule, ok bool) (rule, Rule, bool) {
	key, named := p.key(tensor)
	if !named {
		return built, division, ok
	}
	want, known := styles[p.styles[key]]
	if !known {
		return built, division, ok
	}
	if !ok {
		built = rule{at: anywhere}
	}
	if want == Rowwise && built.at == embedding && p.styles[key] != "embedding_colwise" {
		want = Vocab // the rows of an embedding are its inputs
	}
	r := rule{weight: want, bias: Replicated, at: built.at, multiplies: built.linear()}
	switch {
	case want == Colwise && built.cutsOutputs():
		r = built // which knows of heads, and of what is fused
	case want == Colwise, want == PackedColwise:
		r.bias = want
	}
	if strings.HasSuffix(key, "."+n.leaf) { // a parameter by itself
		return r, r.weight, true
	}
	division, ok = r.divides(n.leaf, dims)
	if !ok {
		return rule{}, "", false
	}
	return r, division, true
}

// cutsOutputs says that the rule is what a plan means by colwise.
func (r rule) cutsOutputs() bool {
	return slices.Contains([]Rule{Colwise, KVHeads, QKV, PackedColwise, Vocab}, r.weight)
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
