package shard

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/recovery"
)

// part is what the steps know of a tensor besides what the plan says.
type part struct {
	name
	rule
	home    place // where it belongs, whatever the rules of the options say
	at      place // where they, or its name, say that it belongs
	vocab   bool  // it is an embedding or a head, whatever they say
	source  *checkpoint.Tensor
	packed  *checkpoint.Packed // nil for a tensor by itself
	stacked bool               // it holds all experts of its layer
	experts int64              // in its layer, where it is of one of them
	own     *ModuleRule        // of the options, where one decides about it
	kept    bool               // it stays as it is stored, see Undecoded
	linear  bool               // it is the weight of a linear layer, whatever the rules of the options say
}

// tensors lists the tensors in the order of the model, each with its rule and
// what it becomes.
func (b *builder) tensors() error {
	seen := make(map[string]bool, len(b.ix.Tensors))
	members, err := b.checkPacked()
	if err != nil {
		return err
	}
	var all []part
	kept := undecoded(b.ix, b.quantization, members)
	for i := range b.ix.Tensors {
		t := &b.ix.Tensors[i]
		if err := b.valid(t); err != nil {
			return err
		}
		if seen[t.Name] {
			return invalid(t.Name, "it is listed twice")
		}
		seen[t.Name] = true
		if !members[i] {
			p := b.part(t)
			p.kept = kept[i]
			all = append(all, p)
		}
	}
	for i := range b.ix.Packed {
		all = append(all, b.packedPart(&b.ix.Packed[i]))
	}
	slices.SortFunc(all, func(x, y part) int {
		return cmp.Or(cmp.Compare(x.home, y.home), cmp.Compare(x.layer, y.layer), cmp.Compare(x.stack, y.stack),
			cmp.Compare(x.source.File, y.source.File), cmp.Compare(x.source.Offset, y.source.Offset),
			cmp.Compare(x.source.Name, y.source.Name))
	})
	all = b.dropTied(all)
	if err := b.experts(all); err != nil {
		return err
	}
	b.pol.seats = newSeats(b.ix, all)
	limit := b.plan.Options.ChunkBytes * MaxChunks
	for i := range all {
		t, err := b.tensor(i, &all[i])
		if err != nil {
			return err
		}
		made, of := []Tensor{t}, all[i:i+1]
		if t.packed() && t.Scheme == b.pol.none.Name() {
			if made, of, err = b.unpack(&t, &all[i]); err != nil {
				return err
			}
		}
		b.plan.Tensors, b.parts = append(b.plan.Tensors, made...), append(b.parts, of...)
		for j := range made {
			b.plan.StoredBytes += made[j].stored()
		}
		if b.plan.StoredBytes > limit {
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
	size, err := t.DType.PaddedBytes(n)
	elements, _ := t.DType.Block()
	switch {
	case err != nil:
		return invalid(t.Name, "%w", err)
	case elements == 0:
		return invalid(t.Name, "it has no element type")
	case size != t.Bytes:
		return invalid(t.Name, "%d bytes are listed, its shape takes %d", t.Bytes, size)
	case t.File < 0 || int(t.File) >= len(b.ix.Files):
		return invalid(t.Name, "file %d is not one of %d", t.File, len(b.ix.Files))
	case t.Offset < 0 || t.Bytes > b.ix.Files[t.File].Size-t.Offset:
		return invalid(t.Name, "bytes [%d, %d+%d) are not in %s of %d bytes",
			t.Offset, t.Offset, t.Bytes, b.ix.Files[t.File].Name, b.ix.Files[t.File].Size)
	}
	return nil
}

// part looks a tensor's rule up.
func (b *builder) part(t *checkpoint.Tensor) part {
	p := part{name: parseName(t.Name), source: t, stacked: isStacked(t.Name, t.Shape)}
	dims := len(t.Shape)
	if p.stacked {
		dims--
	}
	r, division, ok := match(b.rules, p.name, dims)
	r, division, ok = b.tp.follow(t.Name, p.name, dims, r, division, ok)
	p.linear = ok && r.linear() && p.leaf == "weight"
	p.vocab = ok && division == Vocab && p.leaf == "weight"
	p.home = p.place(r, ok)
	if p.own = b.own.first(t.Name); p.own != nil {
		r, division = p.own.follow(p.leaf, dims, r, ok)
		ok = true
	}
	p.at = p.place(r, ok)
	if !ok {
		b.unmatched = append(b.unmatched, t.Name)
		division = Replicated
	}
	p.rule = r
	p.rule.weight = division
	return p
}

// place returns where a tensor with a rule, if it has one, belongs. The number
// of a layer in its name goes before that.
func (n *name) place(r rule, ok bool) place {
	switch {
	case n.layer >= 0:
		return inLayer
	case ok && r.at != inLayer:
		return r.at
	}
	return anywhere
}

// isVocab says that a tensor is the embedding, or the head: what may be tied.
func (p *part) isVocab(at place) bool { return p.vocab && p.home == at }

// dropTied leaves a stored head out where it is the embedding once more.
func (b *builder) dropTied(all []part) []part {
	if !b.tied {
		return all
	}
	embed := slices.IndexFunc(all, func(p part) bool { return p.isVocab(embedding) })
	top := slices.IndexFunc(all, func(p part) bool { return p.isVocab(head) })
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

// view returns a stored tensor as rows × cols.
func (b *builder) view(p *part) Tensor {
	s := p.source
	t := Tensor{Name: s.Name, DType: s.DType, Shape: slices.Clone(s.Shape), Transposed: s.Transposed, Codes: s.Codes, File: int(s.File), Offset: s.Offset, Bytes: s.Bytes,
		Form: s.Form, Rows: 1, Cols: 1, Rule: p.rule.weight}
	if t.Shape == nil {
		t.Shape = []int64{}
	}
	switch {
	case p.packed != nil:
		t.Rows, t.Cols = p.packed.Matrix()
		if p.stacked {
			t.Experts = t.Shape[0]
		}
		for _, i := range p.packed.Parts[1:] {
			part := &b.ix.Tensors[i]
			t.Parts = append(t.Parts, Run{int(part.File), part.Offset, part.Bytes})
		}
		return t
	case s.Bytes == 0:
		t.Rows, t.Cols, t.Rule = 0, 0, Replicated
	case len(t.Shape) > 0:
		rows := 1 // dimensions that are rows
		if p.stacked {
			t.Experts, rows = t.Shape[0], max(len(t.Shape)-1, 1)
		}
		for i, d := range t.Shape {
			if i < rows {
				t.Rows *= d
			} else {
				t.Cols *= d
			}
		}
	}
	if elements, _ := t.DType.Block(); t.Cols%elements != 0 {
		// A row ends inside a byte: no row can be read without its neighbour.
		// What fills up the last byte is read and placed too.
		t.Rows, t.Cols, t.Experts = 1, (t.Rows*t.Cols+elements-1)/elements*elements, 0
		if t.Rule != Replicated {
			t.Rule = Replicated
			b.flat = append(b.flat, t.Name)
		}
	}
	return t
}

// tensor decides how a tensor is cut and what it becomes.
func (b *builder) tensor(i int, p *part) (Tensor, error) {
	t := b.view(p)
	if b.quantization == nil && t.Form == "" && t.Rows > 0 && form.IsFloat8(t.DType) {
		t.Form = form.Float8 // in a quantized checkpoint they have scales somewhere
	}
	if _, err := form.Open(t.Form, t.DType, t.Rows, t.Cols); err != nil {
		return t, invalid(t.Name, "%w", err)
	}
	if p.linear {
		b.linear++
	}
	reason, err := b.pol.apply(i, &t, p)
	if e := (*recovery.Error)(nil); errors.As(err, &e) && e.Tensor != "" {
		return t, err
	} else if err != nil {
		return t, &recovery.Error{Class: recovery.Unsupported, Op: "plan", Tensor: t.Name, Err: err}
	}
	switch {
	case t.Source != nil && !t.Held() && t.weight().Unit > MaxChunkBytes:
		return t, &recovery.Error{Class: recovery.Unsupported, Op: "plan", Tensor: t.Name,
			Err: fmt.Errorf("%d bytes must be read together, a chunk has at most %d", t.weight().Unit, int64(MaxChunkBytes))}
	case reason != "":
		b.plan.Fallbacks = append(b.plan.Fallbacks, Note{t.Name, fmt.Sprintf("becomes %s: %s", t.Scheme, reason)})
	}
	if t.Rule == Vocab && (t.Transposed || t.packed() && t.Scheme == b.pol.none.Name()) {
		b.unpadded = append(b.unpadded, t.Name)
	}
	err = b.cut.check(&t, p.rule, p.module)
	if p.own != nil && recovery.ClassOf(err) == recovery.InvalidCheckpoint {
		err = usage(t.Name, fmt.Sprintf("correct rule %s", p.own), "it cannot be divided so: %s", causeOf(err))
	}
	return t, err
}
