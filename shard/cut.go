package shard

import "slices"

// position is where a rank stands among those that share a pipeline stage.
type position struct{ ep, tp int64 }

// cutter divides tensors over the ranks of a stage.
type cutter struct {
	tp, ep int64
	pad    int64 // Options.PadVocab
	heads  heads
	plain  map[string]bool // modules cut without regard to heads

	projected map[string]*projection // parts of packed weights that are cut
}

// axis is the rows or the columns of a matrix.
type axis struct {
	n    int64
	name string
}

// axes returns a weight's outputs and its inputs: rows and columns, or the
// reverse where it is stored transposed, or where it has one row for each of
// several experts, as their biases do. They are those of one expert.
func (t *Tensor) axes() (out, in axis) {
	rows := t.Rows
	if t.Experts > 0 {
		rows /= t.Experts
	}
	out, in = axis{rows, "rows"}, axis{t.Cols, "columns"}
	if t.sideways() {
		return in, out
	}
	return out, in
}

// sideways says that outputs are columns.
func (t *Tensor) sideways() bool { return t.Transposed || t.Experts > 0 && t.Rows == t.Experts }

// slices returns what a rank holds of a tensor that has been checked, without
// its place in the arena.
func (c *cutter) slices(t *Tensor, at position) []Slice {
	x := c.projected[t.Name]
	if x == nil {
		return c.byRule(t, at)
	}
	own := c.byRule(x.weight, at)
	for i, s := range own {
		rows, cols, _ := x.slice(t, s)
		own[i] = Slice{Rows: rows, Cols: cols, Held: cols.cover(cutAlign(t.Layout), t.Cols)}
	}
	return own
}

// byRule is slices for a tensor that is cut by its own rows and columns.
func (c *cutter) byRule(t *Tensor, at position) []Slice {
	rows, cols := c.axes(t, at.tp)
	if t.sideways() {
		rows, cols = cols, rows
	}
	var pad int64
	if t.Rule == Vocab && !t.Transposed && t.Experts == 0 {
		pad = c.padding(t.Rows, rows[0])
	}
	if t.Experts > 0 {
		rows = ofExperts(rows, t.Rows/t.Experts, even(t.Experts, c.ep, at.ep))
	}
	own := make([]Slice, 0, len(rows)*len(cols))
	for _, r := range rows {
		for _, col := range cols {
			own = append(own, Slice{Rows: r, Cols: col, Held: col.cover(cutAlign(t.Layout), t.Cols), Pad: pad})
		}
	}
	return own
}

// axes returns which of a weight's outputs and inputs a rank of a tp group
// holds.
func (c *cutter) axes(t *Tensor, tp int64) (outputs, inputs []Span) {
	out, in := t.axes()
	outputs, inputs = []Span{{0, out.n}}, []Span{{0, in.n}}
	if c.tp == 1 {
		return outputs, inputs
	}
	switch t.Rule {
	case Replicated:
	case Vocab:
		outputs[0] = c.vocab(out.n, tp)
	case Rowwise, PackedRowwise:
		inputs = c.parts(t.Rule, in.n, tp)
	default:
		outputs = c.parts(t.Rule, out.n, tp)
	}
	return outputs, inputs
}

// parts returns what a rank of a tp group holds of n outputs or inputs: one
// range of each section.
func (c *cutter) parts(rule Rule, n, tp int64) (own []Span) {
	var start int64
	for _, s := range c.sections(rule, n) {
		own = append(own, s.of(c.tp, tp).from(start))
		start += s.n
	}
	return own
}

// section is a run of outputs, or inputs, that is divided by itself, evenly, into parts: as
// many as there are ranks, or fewer, of which several ranks then hold the same.
type section struct{ n, parts int64 }

// of returns what a rank of a tp group holds of a section.
func (s section) of(tp, rank int64) Span { return even(s.n, s.parts, rank/(tp/s.parts)) }

// sections returns what n outputs, or inputs, consist of, by a rule that has
// been checked.
func (c *cutter) sections(rule Rule, n int64) []section {
	all, kv := c.tp, c.tp
	if h := c.heads.kv; h > 0 && h < c.tp {
		kv = h
	}
	switch rule {
	case KVHeads:
		return []section{{n, kv}}
	case PackedColwise, PackedRowwise:
		return []section{{n / 2, all}, {n / 2, all}}
	case QKV:
		head := n / (c.heads.q + 2*c.heads.kv)
		return []section{{c.heads.q * head, all}, {c.heads.kv * head, kv}, {c.heads.kv * head, kv}}
	}
	return []section{{n, all}}
}

// vocab returns a rank's part of n rows of a vocabulary.
func (c *cutter) vocab(n, tp int64) Span {
	if c.pad == 0 {
		return short(n, c.tp, tp)
	}
	each := up(n, c.pad) / c.tp
	return Span{min(tp*each, n), min((tp+1)*each, n)}
}

// padding returns how many rows a rank's part of a vocabulary of n rows is
// filled up with.
func (c *cutter) padding(n int64, own Span) int64 {
	if c.pad == 0 {
		return 0
	}
	return up(n, c.pad)/c.tp - own.Len()
}

// owned is a run of a tensor's rows and the ranks of the stage that need it.
type owned struct{ rows, ranks Span }

// owned divides a tensor's rows by who needs them; where that would make runs
// of fewer than least rows, it is one run for the whole stage. experts are those
// groups of ranks that hold the tensor.
func (c *cutter) owned(t *Tensor, least int64, experts Span) []owned {
	var runs []owned
	at := map[Span]int{} // of runs
	for ep := experts.Start; ep < experts.Stop; ep++ {
		for tp := range c.tp {
			rank := ep*c.tp + tp
			for _, s := range c.slices(t, position{ep, tp}) {
				i, known := at[s.Rows]
				switch {
				case s.Rows.Len() == 0: // a short last rank
				case known:
					runs[i].ranks.Stop = rank + 1
				case s.Rows.Len() < least:
					return []owned{{Span{0, t.Rows}, Span{experts.Start * c.tp, experts.Stop * c.tp}}}
				default:
					at[s.Rows] = len(runs)
					runs = append(runs, owned{s.Rows, Span{rank, rank + 1}})
				}
			}
		}
	}
	slices.SortFunc(runs, func(a, b owned) int { return int(a.rows.Start - b.rows.Start) })
	return runs
}

// even returns the i-th of parts equal ranges of n.
func even(n, parts, i int64) Span { return Span{i * (n / parts), (i + 1) * (n / parts)} }

// short returns the i-th of parts ranges of n that are as long as need be but
// the last ones, which are shorter, or empty.
func short(n, parts, i int64) Span {
	size := (n + parts - 1) / parts
	return Span{min(i*size, n), min((i+1)*size, n)}
}

// up returns n, rounded up to a multiple of unit.
func up(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
