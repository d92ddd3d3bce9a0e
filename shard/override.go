package shard

import (
	"fmt"

	"github.com/gantry-ml/gantry/quant"
)

// override is a quant.Override at work.
type override struct {
	quant.Override
	number  int // from 1, in the order of the options
	pattern quant.Pattern
	scheme  quant.Scheme
	matched bool // some tensor's name
	decided bool // what some tensor becomes
}

func compile(list []quant.Override) ([]override, error) {
	out := make([]override, len(list))
	for i, o := range list {
		p, s, err := o.Compile()
		if err != nil {
			return nil, err
		}
		out[i] = override{Override: o, number: i + 1, pattern: p, scheme: s}
	}
	return out, nil
}

// override returns the first override that matches a name, nil without one.
func (p *policy) override(tensor string) (first *override) {
	for i := range p.overrides {
		o := &p.overrides[i]
		// Later ones are looked at only to know which match nothing at all.
		if first != nil && o.matched || !o.pattern.Match(tensor) {
			continue
		}
		o.matched = true
		if first == nil {
			first = o
		}
	}
	if first != nil {
		first.decided = true
	}
	return first
}

// force gives the tensor an override's scheme, whatever the scheme is meant
// for. Where it cannot take it, a pattern leaves it what the scheme leaves to
// such tensors, and the plan says so: a pattern such as model.layers.0 sweeps
// over norms and biases that nobody meant. An override that names this very
// tensor is an error then, since its author did mean it.
func (p *policy) force(t *Tensor, o *override) (fallback string, err error) {
	cause, err := p.become(t, o.scheme)
	if err != nil {
		return "", err
	}
	if cause != "" && o.pattern.Names(t.Name) {
		return "", usage(t.Name, "choose another scheme for it, or none", "override %d asks for %s: %s", o.number, o.Scheme, cause)
	}
	t.Why = fmt.Sprintf("override %d, %s", o.number, o)
	return p.explain(t, cause), nil
}

// keepStored leaves a tensor as it is stored: what it is for is not known. An
// override that names it is an error; a pattern that sweeps over it is not.
func (p *policy) keepStored(t *Tensor) error {
	o := p.override(t.Name)
	if o != nil && o.pattern.Names(t.Name) && o.scheme.Target() != quant.Nothing {
		return usage(t.Name, "leave it as it is stored", "override %d asks for %s: %s", o.number, o.Scheme, undecodedWhy)
	}
	if t.Why = undecodedWhy + ": as stored"; o == nil && p.target == quant.Nothing && p.recipe == nil {
		t.Why = storedWhy
	}
	return p.set(t, p.none)
}

// warnings names the overrides that decided nothing.
func (p *policy) warnings() (list []string) {
	for _, o := range p.overrides {
		switch {
		case !o.matched:
			list = append(list, fmt.Sprintf("override %d, %s, matches no tensor", o.number, o))
		case !o.decided:
			list = append(list, fmt.Sprintf("override %d, %s, changes nothing: others before it match all of its tensors", o.number, o))
		}
	}
	return list
}
