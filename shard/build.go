package shard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/source"
)

// Build plans the load of a checkpoint. It fails with class usage where the
// layout does not divide a tensor, unsupported for what this version cannot
// do, and invalid_checkpoint where the index contradicts itself.
//
// A head that is stored although the configuration ties it to the embedding
// is left out: engines use the embedding for both. With pp the last stage
// then holds the embedding too.
func Build(ix *checkpoint.Index, o Options) (*Plan, error) {
	o, err := o.normalise()
	if err != nil {
		return nil, err
	}
	pol, err := newPolicy(o)
	if err != nil {
		return nil, err
	}
	own, err := newModuleRules(o.Rules)
	if err != nil {
		return nil, err
	}
	b := &builder{
		ix: ix, pol: pol, quantization: ix.About().Quantization, tied: ix.Architecture.TiedEmbeddings,
		rules: rulesOf(ix.Architecture.Name), tp: newTPPlan(ix.TPPlan), own: own,
		cut: cutter{tp: int64(o.Layout.TP), ep: int64(o.Layout.EP), pad: o.PadVocab, heads: countHeads(ix),
			plain: map[string]bool{}, projected: map[string]*projection{}},
		plan: &Plan{Version: Version, Checkpoint: ix.Digest(), Options: o, Files: slices.Clone(ix.Files),
			Tensors: []Tensor{}, Ranks: []Rank{}, Chunks: []Chunk{},
			Fallbacks: []Note{}, Straddles: []Note{}, Warnings: []string{}},
	}
	if b.plan.Files == nil {
		b.plan.Files = []source.File{}
	}
	for _, step := range []func() error{b.tensors, b.stage, b.ranks, b.chunks} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.warn()
	return b.plan, nil
}

// builder carries a plan from step to step.
type builder struct {
	ix     *checkpoint.Index
	pol    *policy
	cut    cutter
	rules  map[string]rule // of the family
	tp     *tpPlan         // the checkpoint's
	own    moduleRules     // of the options
	tied   bool
	plan   *Plan
	parts  []part // by tensor of the plan
	stages stages
	ranked Span // the ranks of a stage that the last chunk is for

	quantization *checkpoint.Quantization // of the checkpoint, nil where it is none

	unmatched []string // tensors without a rule
	twice     []string // tensors that are read twice
	flat      []string // tensors whose rule cannot be followed, see Tensor
	unpadded  []string // tensors of the vocabulary that are not padded
	linear    int      // tensors that are weights of linear layers
}

func (b *builder) warnf(format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf(format, args...))
}

// warn says what a user might not expect of the plan.
func (b *builder) warn() {
	o := b.plan.Options
	if o.Layout.TP > 1 {
		b.tp.warnings(b.warnf)
	}
	b.own.warnings(b.warnf)
	if len(b.unpadded) > 0 && o.PadVocab > 0 {
		b.warnf("not padded, since a row of the vocabulary is not a stored row: %s", some(b.unpadded))
	}
	if len(b.unmatched) > 0 && (o.Layout.TP > 1 || o.Layout.PP > 1) {
		b.warnf("no layout rule matches %s: not cut, each rank holds the whole", some(b.unmatched))
	}
	if q := b.quantization; q != nil && b.ix.Format == checkpoint.FormatSafetensors && o.Scheme != "none" {
		switch kept := b.kept(); {
		case len(b.ix.Packed) == 0:
			b.warnf("the weights are quantized already (%s), in a way that is not decoded: they stay as they are stored", q)
		case len(kept) > 0:
			b.warnf("some weights are quantized (%s) in a way that is not decoded: %s stay as they are stored", q, some(kept))
		}
	}
	if len(b.flat) > 0 && o.Layout.TP > 1 {
		b.warnf("rows end inside a byte in %s: not cut, each rank holds the whole", some(b.flat))
	}
	if len(b.cut.plain) > 0 {
		modules := []string{}
		for m := range b.cut.plain {
			modules = append(modules, m)
		}
		slices.Sort(modules)
		b.warnf("the number of heads is unknown: the rows of %s are cut evenly, perhaps inside a head", strings.Join(modules, ", "))
	}
	if n := len(b.plan.Straddles); n > 0 {
		names := make([]string, n)
		for i, s := range b.plan.Straddles {
			names[i] = s.Tensor
		}
		b.warnf("cut inside blocks or groups, which several ranks then hold, and some engines refuse: %s", some(names))
	}
	if len(b.twice) > 0 {
		b.warnf("read twice, first for the largest value, which the scheme needs and no chunk has all of: %s", some(b.twice))
	}
	for _, w := range b.pol.warnings() {
		b.warnf("%s", w)
	}
	if b.pol.target == quant.Linear && b.linear == 0 {
		b.warnf("%s is for linear layers, and no tensor is known to be the weight of one: nothing is quantized", o.Scheme)
	}
}

// some names the first few tensors and counts the others.
func some(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
