package shard

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// Limits of what is planned.
const (
	MinChunkBytes = 64 << 10
	MaxDegree     = 1024    // of one kind of parallelism
	MaxRanks      = 4096    // of a layout
	MaxChunks     = 1 << 22 // of a plan: 64 TiB in the largest chunks
	maxPadVocab   = 1 << 16 // rows
)

// normal returns l with ones for zeroes.
func (l Layout) normal() Layout {
	return Layout{max(l.TP, 1), max(l.PP, 1), max(l.EP, 1), max(l.DP, 1)}
}

// Ranks returns how many ranks the layout has.
func (l Layout) Ranks() int {
	l = l.normal()
	return l.TP * l.PP * l.EP * l.DP
}

// Rank returns the number of the rank at a position.
func (l Layout) Rank(dp, pp, ep, tp int) int {
	l = l.normal()
	return ((dp*l.PP+pp)*l.EP+ep)*l.TP + tp
}

// String writes the degrees that are not one, such as "tp2-pp4", or "single".
func (l Layout) String() string {
	l = l.normal()
	var s []string
	for _, d := range l.degrees() {
		if d.n > 1 {
			s = append(s, fmt.Sprintf("%s%d", d.name, d.n))
		}
	}
	if s == nil {
		return "single"
	}
	return strings.Join(s, "-")
}

type degree struct {
	name string
	n    int
}

func (l Layout) degrees() []degree {
	return []degree{{"tp", l.TP}, {"pp", l.PP}, {"ep", l.EP}, {"dp", l.DP}}
}

// Validate says whether a layout is one that Build can plan for some
// checkpoint.
func (l Layout) Validate() error {
	ranks := 1
	for _, d := range l.degrees() {
		if d.n < 0 || d.n > MaxDegree {
			return usage("", fmt.Sprintf("choose %s from 1 to %d", d.name, MaxDegree), "%s %d is out of range", d.name, d.n)
		}
		ranks *= max(d.n, 1) // at most 2^40
	}
	if ranks > MaxRanks {
		return usage("", fmt.Sprintf("choose a layout of at most %d", MaxRanks), "layout %s has %d ranks", l, ranks)
	}
	return nil
}

// Validate says whether Build accepts the options, whatever the checkpoint.
func (o Options) Validate() error {
	_, err := o.normalise()
	return err
}

// normalise returns the options with every default filled in and every scheme
// by its full name.
func (o Options) normalise() (Options, error) {
	if err := o.Layout.Validate(); err != nil {
		return o, err
	}
	o.Layout = o.Layout.normal()
	if o.ChunkBytes == 0 {
		o.ChunkBytes = DefaultChunkBytes
	}
	if o.ChunkBytes < MinChunkBytes || o.ChunkBytes > MaxChunkBytes {
		return o, usage("", fmt.Sprintf("choose from %d to %d", MinChunkBytes, MaxChunkBytes),
			"chunks of %d bytes are out of range", o.ChunkBytes)
	}
	if o.Scheme == "" {
		o.Scheme = "none"
	}
	if _, ok := quant.ParseRecipe(o.Scheme); !ok {
		s, err := quant.Parse(o.Scheme)
		if err != nil {
			return o, err
		}
		if quant.HasOriginal(s) {
			return o, usage("", "ask for the scheme alone and for keep_original", "%s is not a scheme of its own", o.Scheme)
		}
		o.Scheme = s.Name()
	}
	if o.PadVocab < 0 || o.PadVocab > maxPadVocab {
		return o, usage("", "choose 64, as vLLM does", "a vocabulary cannot be padded to a multiple of %d rows", o.PadVocab)
	}
	if err := CheckRules(o.Rules); err != nil {
		return o, err
	}
	o.Rules = append([]ModuleRule(nil), o.Rules...) // nil where empty
	if err := quant.CheckOverrides(o.Overrides); err != nil {
		return o, err
	}
	o.Overrides = append([]quant.Override(nil), o.Overrides...) // nil where empty
	for i := range o.Overrides {
		_, s, err := o.Overrides[i].Compile()
		if err != nil {
			return o, err
		}
		o.Overrides[i].Scheme = s.Name()
	}
	return o, nil
}

// equal reports whether two options are the same, one by one.
func (o Options) equal(p Options) bool {
	same := slices.Equal(o.Overrides, p.Overrides) && slices.Equal(o.Rules, p.Rules)
	o.Overrides, p.Overrides, o.Rules, p.Rules = nil, nil, nil, nil
	return same && reflect.DeepEqual(o, p)
}

// usage is an error about a request that makes no sense, for all tensors or
// for one.
func usage(tensor, hint, format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: "plan", Tensor: tensor, Err: fmt.Errorf(format, args...), Hint: hint}
}

// invalid is an error about a tensor that contradicts the checkpoint.
func invalid(tensor, format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "plan", Tensor: tensor, Err: fmt.Errorf(format, args...)}
}
