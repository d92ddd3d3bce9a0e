package model

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// Vars is a model's tensors below a prefix of their names. What is asked for
// is kept, so that whoever builds a network can say in the end what it missed
// and what it left unused.
type Vars struct {
	m      *Model
	prefix string // "" or ends with a dot
	asked  *account
}

// account is what was asked for through a Vars and all its Subs.
type account struct {
	mu      sync.Mutex
	found   map[string]bool
	missing map[string]bool
}

// Names of the embedding and of the head that is tied to it.
const (
	embedding = "model.embed_tokens.weight"
	head      = "lm_head.weight"
)

// Sub returns the tensors below prefix, such as "model.layers.0.self_attn".
func (v *Vars) Sub(prefix string) *Vars {
	s := *v
	if prefix != "" {
		s.prefix += strings.TrimSuffix(prefix, ".") + "."
	}
	return &s
}

// Tensor returns the tensor with the given name below the prefix. Where the
// checkpoint ties the head to the embedding and does not store it, asking for
// the head gives the embedding. An unknown name is of class not_found.
func (v *Vars) Tensor(name string) (*Tensor, error) {
	full := v.prefix + name
	i, ok := v.m.byName[full]
	if !ok && full == head && v.m.parts.Index.Architecture.TiedEmbeddings {
		i, ok = v.m.byName[embedding]
	}
	v.asked.add(full, ok)
	if !ok {
		return nil, &recovery.Error{Class: recovery.NotFound, Op: "find", Tensor: full, Err: fmt.Errorf("model %s has no such tensor", v.m.parts.Name)}
	}
	return newTensor(v.m, i), nil
}

// Names lists the tensors below the prefix, without it, sorted.
func (v *Vars) Names() []string {
	var names []string
	for full := range v.m.byName {
		if name, ok := strings.CutPrefix(full, v.prefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Missing lists the full names that were asked for and are not there, sorted.
func (v *Vars) Missing() []string { return v.asked.list(true) }

// Asked lists the full names that were asked for and found, sorted.
func (v *Vars) Asked() []string { return v.asked.list(false) }

// Unused lists the full names of tensors that nobody asked for, sorted.
func (v *Vars) Unused() []string {
	asked := v.Asked()
	var unused []string
	for full := range v.m.byName {
		if _, ok := slices.BinarySearch(asked, full); !ok {
			unused = append(unused, full)
		}
	}
	slices.Sort(unused)
	return unused
}

func (a *account) add(name string, found bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set := &a.missing
	if found {
		set = &a.found
	}
	if *set == nil {
		*set = map[string]bool{}
	}
	(*set)[name] = true
}

func (a *account) list(missing bool) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	set := a.found
	if missing {
		set = a.missing
	}
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
