package shard

import (
	"slices"
	"strings"
)

// Experts are divided whole: ranks at position ep of EP hold experts
// [ep·E/EP, (ep+1)·E/EP) of each layer, and all ranks everything else. A
// checkpoint has a tensor for each expert, "…experts.7.up_proj.weight", or one
// that holds the matrices of all, "…experts.gate_up_proj" and GGUF's
// "…ffn_up_exps.weight".

// isStacked says whether a tensor holds something for each expert of a layer,
// in its first dimension: their matrices, or their biases.
func isStacked(tensor string, shape []int64) bool {
	parts := strings.Split(tensor, ".")
	named := slices.Contains(parts[:len(parts)-1], "experts") || len(parts) > 1 && strings.HasSuffix(parts[len(parts)-2], "_exps")
	bias := strings.HasSuffix(parts[len(parts)-1], "bias")
	return named && parseName(tensor).expert < 0 && (len(shape) == 3 && !bias || len(shape) == 2 && bias)
}

// experts counts the experts of each layer, for those with a tensor for each.
func (b *builder) experts(all []part) error {
	type place struct {
		stack string
		layer int
	}
	count := map[place]int64{}
	found := false
	for i := range all {
		p := &all[i]
		at := place{p.stack, p.layer}
		count[at] = max(count[at], int64(p.expert)+1)
		found = found || p.expert >= 0 || p.stacked
	}
	if ep := b.cut.ep; ep > 1 && !found {
		return usage("", "use ep 1, or dp for whole copies", "ep %d divides experts, and the checkpoint has none", ep)
	}
	for i := range all {
		if p := &all[i]; p.expert >= 0 {
			p.experts = count[place{p.stack, p.layer}]
			if err := b.cut.checkExperts(p.source.Name, p.experts); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasExpert says whether ranks at a position ep hold a tensor: one that is not
// of a single expert they all do.
func (c *cutter) hasExpert(p *part, ep int64) bool {
	return p.expert < 0 || int64(p.expert)/(p.experts/c.ep) == ep
}

// holders returns which groups of ranks hold any of a tensor.
func (c *cutter) holders(p *part) Span {
	if p.expert < 0 {
		return Span{0, c.ep}
	}
	ep := int64(p.expert) / (p.experts / c.ep)
	return Span{ep, ep + 1}
}

// ofExperts returns the rows that some experts have of a tensor that holds all,
// given those of one, whose matrix has n rows.
func ofExperts(rows []Span, n int64, experts Span) []Span {
	if len(rows) == 1 && rows[0] == (Span{0, n}) {
		return []Span{{experts.Start * n, experts.Stop * n}}
	}
	var all []Span
	for e := experts.Start; e < experts.Stop; e++ {
		for _, r := range rows {
			all = append(all, r.from(e*n))
		}
	}
	return all
}
