package shard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
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
	o, scheme, err := o.normalise()
	if err != nil {
		return nil, err
	}
	pol, err := newPolicy(scheme, o.ChunkBytes)
	if err != nil {
		return nil, err
	}
	digest, err := digestJSON(ix)
	if err != nil {
		return nil, invalid("", "its index cannot be written down: %w", err)
	}
	b := &builder{
		ix: ix, pol: pol, tied: ix.Architecture.TiedEmbeddings,
		cut: cutter{tp: int64(o.Layout.TP), heads: countHeads(ix), plain: map[string]bool{}},
		plan: &Plan{Version: Version, Checkpoint: digest, Options: o, Files: slices.Clone(ix.Files),
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
	tied   bool
	plan   *Plan
	parts  []part // by tensor of the plan
	stages stages

	left      []string // tensors that are not placed
	unmatched []string
	flat      []string
	linear    int // tensors that are weights of linear layers
}

// part is what the steps know of a tensor besides what the plan says.
type part struct {
	name
	rule
	at     place
	source *checkpoint.Tensor
}

// tensors lists the tensors in the order of the model, each with its rule and
// what it becomes.
func (b *builder) tensors() error {
	seen := make(map[string]bool, len(b.ix.Tensors))
	var all []part
	for i := range b.ix.Tensors {
		t := &b.ix.Tensors[i]
		if err := b.valid(t); err != nil {
			return err
		}
		if seen[t.Name] {
			return invalid(t.Name, "it is listed twice")
		}
		seen[t.Name] = true
		all = append(all, b.part(t))
	}
	slices.SortFunc(all, func(x, y part) int {
		return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.layer, y.layer), cmp.Compare(x.stack, y.stack),
			cmp.Compare(x.source.File, y.source.File), cmp.Compare(x.source.Offset, y.source.Offset),
			cmp.Compare(x.source.Name, y.source.Name))
	})
	all = b.dropTied(all)
	b.parts = all
	limit := b.plan.Options.ChunkBytes * MaxChunks
	for i := range all {
		t, err := b.tensor(&all[i])
		if err != nil {
			return err
		}
		b.plan.Tensors = append(b.plan.Tensors, t)
		if b.plan.StoredBytes += t.Bytes; b.plan.StoredBytes > limit {
			return &recovery.Error{Class: recovery.Unsupported, Op: "plan",
				Err:  fmt.Errorf("the checkpoint needs more than %d chunks of %d bytes", MaxChunks, b.plan.Options.ChunkBytes),
				Hint: "choose larger chunks"}
		}
	}
	return nil
}

// valid checks what the steps rely on.
func (b *builder) valid(t *checkpoint.Tensor) error {
	n, err := dtype.Elements(t.Shape)
	if err != nil {
		return invalid(t.Name, "%w", err)
	}
	size, err := t.DType.Bytes(n)
	switch {
	case err != nil:
		return invalid(t.Name, "%w", err)
	case t.DType.Bits() == 0:
		return invalid(t.Name, "it has no element type")
	case size != t.Bytes:
		return invalid(t.Name, "%d bytes are listed, its shape takes %d", t.Bytes, size)
	case t.File < 0 || t.File >= len(b.ix.Files):
		return invalid(t.Name, "file %d is not one of %d", t.File, len(b.ix.Files))
	case t.Offset < 0 || t.Bytes > b.ix.Files[t.File].Size-t.Offset:
		return invalid(t.Name, "bytes [%d, %d+%d) are not in %s of %d bytes",
			t.Offset, t.Offset, t.Bytes, b.ix.Files[t.File].Name, b.ix.Files[t.File].Size)
	}
	return nil
}

// part looks a tensor's rule up.
func (b *builder) part(t *checkpoint.Tensor) part {
	p := part{name: parseName(t.Name), source: t, at: anywhere}
	r, division, ok := match(b.ix.Architecture.Name, p.name, len(t.Shape))
	if ok {
		p.rule = r
		p.rule.weight = division
	} else {
		b.unmatched = append(b.unmatched, t.Name)
		p.rule.weight = Replicated
	}
	switch {
	case p.layer >= 0:
		p.at = inLayer
	case ok && r.at != inLayer:
		p.at = r.at
	}
	return p
}

// dropTied leaves a stored head out where it is the embedding once more.
func (b *builder) dropTied(all []part) []part {
	if !b.tied {
		return all
	}
	embed := slices.IndexFunc(all, func(p part) bool { return p.at == embedding })
	top := slices.IndexFunc(all, func(p part) bool { return p.at == head && p.leaf == "weight" })
	if embed < 0 || top < 0 {
		return all
	}
	e, h := all[embed].source, all[top].source
	if e.DType != h.DType || !slices.Equal(e.Shape, h.Shape) {
		b.tied = false
		b.warnf("%s is tied to %s by the configuration, but differs from it in type or shape: both are placed", h.Name, e.Name)
		return all
	}
	b.warnf("%s is tied to %s by the configuration: it is neither read nor placed", h.Name, e.Name)
	return slices.Delete(all, top, top+1)
}

// tensor decides how a tensor is cut and what it becomes.
func (b *builder) tensor(p *part) (Tensor, error) {
	s := p.source
	t := Tensor{Name: s.Name, DType: s.DType, Shape: slices.Clone(s.Shape), File: s.File, Offset: s.Offset, Bytes: s.Bytes,
		Rows: 1, Cols: 1, Rule: p.rule.weight}
	if t.Shape == nil {
		t.Shape = []int64{}
	}
	if s.Bytes == 0 {
		t.Rows, t.Cols, t.Rule = 0, 0, Replicated
	} else if len(t.Shape) > 0 {
		t.Rows = t.Shape[0]
		for _, d := range t.Shape[1:] {
			t.Cols *= d
		}
	}
	if t.Cols%8*int64(t.DType.Bits())%8 != 0 {
		// A row ends inside a byte: no row can be read without its neighbour.
		t.Rows, t.Cols = 1, t.Rows*t.Cols
		if t.Rule != Replicated {
			t.Rule = Replicated
			b.flat = append(b.flat, t.Name)
		}
	}
	isLinear := p.rule.linear() && p.leaf == "weight"
	if isLinear {
		b.linear++
	}
	reason, err := b.pol.apply(&t, isLinear)
	if err != nil {
		return t, &recovery.Error{Class: recovery.Unsupported, Op: "plan", Tensor: t.Name, Err: err}
	}
	if reason != "" {
		b.plan.Fallbacks = append(b.plan.Fallbacks, Note{t.Name, fmt.Sprintf("becomes %s: %s", t.Scheme, reason)})
	}
	return t, b.cut.check(&t, p.rule, p.module)
}

// stage divides the layers over the pipeline.
func (b *builder) stage() (err error) {
	var before, after int64
	weight, stacks := map[int]int64{}, []string{}
	for i, p := range b.parts {
		size := placed(&b.plan.Tensors[i])
		switch p.at {
		case embedding:
			before += size
			if b.tied {
				after += size
			}
		case inLayer:
			weight[p.layer] += size
			if !slices.Contains(stacks, p.stack) {
				stacks = append(stacks, p.stack)
			}
		case finalNorm, head:
			after += size
			if b.tied && p.at == head {
				before += size
			}
		}
	}
	b.stages, err = planStages(b.plan.Options.Layout.PP, weight, stacks, before, after)
	return err
}

// placed returns the bytes of the whole tensor in an arena.
func placed(t *Tensor) int64 {
	var n int64
	for _, p := range t.Layout.Planes {
		n += t.Rows * p.RowBytes(t.Cols)
	}
	return n
}

// on says whether a stage holds a tensor. What nobody knows the place of is
// held by all.
func (b *builder) on(p *part, stage int) bool {
	last := stage == b.stages.count-1
	switch p.at {
	case embedding:
		return stage == 0 || b.tied && last
	case inLayer:
		return stage == b.stages.first[p.layer]
	case finalNorm:
		return last
	case head:
		return last || b.tied && stage == 0
	}
	return true
}

// ranks lays the arenas out.
func (b *builder) ranks() error {
	l := b.plan.Options.Layout
	for dp := range l.DP {
		for pp := range l.PP {
			for tp := range l.TP {
				b.plan.Ranks = append(b.plan.Ranks, b.arena(Rank{Rank: l.Rank(dp, pp, tp), DP: dp, PP: pp, TP: tp}))
			}
		}
	}
	b.straddles()
	return nil
}

// arena gives a rank its slices, one plane after the other.
func (b *builder) arena(r Rank) Rank {
	r.Slices = []Slice{}
	for i := range b.plan.Tensors {
		if !b.on(&b.parts[i], r.PP) {
			continue
		}
		t := &b.plan.Tensors[i]
		s := b.cut.slice(t, int64(r.TP))
		s.Tensor = i
		s.Planes = make([]Placement, len(t.Layout.Planes))
		for j, p := range t.Layout.Planes {
			row := p.RowBytes(s.Held.Len())
			s.Planes[j] = Placement{Offset: r.ArenaBytes, Bytes: s.Rows.Len() * row, RowBytes: row}
			r.ArenaBytes += (s.Planes[j].Bytes + Align - 1) / Align * Align
		}
		r.Slices = append(r.Slices, s)
	}
	return r
}

// straddles notes the tensors that some rank's cut divides inside a block.
func (b *builder) straddles() {
	tp := b.plan.Options.Layout.TP
	for i := range b.plan.Tensors {
		t := &b.plan.Tensors[i]
		if t.Rule != Rowwise {
			continue
		}
		for rank := range tp {
			if s := b.cut.slice(t, int64(rank)); s.Held != s.Cols {
				b.plan.Straddles = append(b.plan.Straddles, Note{t.Name,
					fmt.Sprintf("%d columns cut by tp %d fall inside blocks of %d", t.Cols, tp, cutAlign(t.Layout))})
				break
			}
		}
	}
}

func (b *builder) warnf(format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf(format, args...))
}

// warn says what a user might not expect of the plan.
func (b *builder) warn() {
	o := b.plan.Options
	if n := len(b.unmatched); n > 0 && (o.Layout.TP > 1 || o.Layout.PP > 1) {
		b.warnf("%d tensors match no layout rule and are not cut: %s", n, some(b.unmatched))
	}
	if n := len(b.flat); n > 0 && o.Layout.TP > 1 {
		b.warnf("%d tensors have rows that end inside a byte and are not cut: %s", n, some(b.flat))
	}
	if len(b.cut.plain) > 0 {
		modules := []string{}
		for m := range b.cut.plain {
			modules = append(modules, m)
		}
		slices.Sort(modules)
		b.warnf("the number of heads is unknown: the rows of %s are cut evenly, perhaps inside a head", strings.Join(modules, ", "))
	}
	if b.pol.scope == linear && b.linear == 0 {
		b.warnf("%s is for linear layers, and no tensor is known to be the weight of one: nothing is quantized", o.Scheme)
	}
}

// some lists the first few names.
func some(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:few], ", ") + ", …"
}
