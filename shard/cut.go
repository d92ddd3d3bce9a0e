package shard

import "fmt"

// cutter divides tensors over a tp group.
type cutter struct {
	tp    int64
	heads heads
	plain map[string]bool // modules cut without regard to heads

	projected map[string]*projection // parts of packed weights that are cut
}

// check says whether t divides over the group, between what is read together.
func (c *cutter) check(t *Tensor, r rule, module string) error {
	if err := c.checkRule(t, r, module); err != nil {
		return err
	}
	per := t.Together()
	for rank := range c.tp {
		if rows := c.slice(t, rank).Rows; rows.Start%per != 0 || rows.Stop%per != 0 {
			return usage(t.Name, "use tp 1", "rows [%d, %d) end inside %d that are stored as one", rows.Start, rows.Stop, per)
		}
	}
	return nil
}

func (c *cutter) checkRule(t *Tensor, r rule, module string) error {
	if c.tp == 1 {
		return nil
	}
	out, in := t.axes()
	switch t.Rule {
	case Colwise:
		if r.heads {
			return c.checkHeads(t, module, c.heads.q, false)
		}
		return c.divides(t, out)
	case KVHeads:
		return c.checkHeads(t, module, c.heads.kv, true)
	case Rowwise:
		return c.divides(t, in)
	}
	return nil
}

// checkHeads checks a tensor whose outputs are n heads, 0 where unknown. shared
// says that several ranks may hold the same head.
func (c *cutter) checkHeads(t *Tensor, module string, n int64, shared bool) error {
	out, _ := t.axes()
	switch {
	case n <= 0:
		c.plain[module] = true
		return c.divides(t, out)
	case out.n%n != 0:
		return invalid(t.Name, "%d %s are not a whole number for each of %d heads", out.n, out.name, n)
	case n%c.tp == 0, shared && c.tp%n == 0:
		return nil
	}
	return usage(t.Name, fmt.Sprintf("tp %d would", gcd(n, c.tp)), "%d heads do not divide over tp %d", n, c.tp)
}

// divides checks that an axis divides over the group.
func (c *cutter) divides(t *Tensor, a axis) error {
	if a.n%c.tp == 0 {
		return nil
	}
	return usage(t.Name, fmt.Sprintf("tp %d would", gcd(a.n, c.tp)), "%d %s do not divide over tp %d", a.n, a.name, c.tp)
}

// axis is the rows or the columns of a tensor.
type axis struct {
	n    int64
	name string
}

// axes returns a weight's outputs and its inputs: rows and columns, or the
// reverse where it is stored transposed.
func (t *Tensor) axes() (out, in axis) {
	out, in = axis{t.Rows, "rows"}, axis{t.Cols, "columns"}
	if t.Transposed {
		return in, out
	}
	return out, in
}

// slice returns what the given rank of the group holds of a tensor that has
// been checked, without its place in the arena.
func (c *cutter) slice(t *Tensor, rank int64) Slice {
	if x := c.projected[t.Name]; x != nil {
		rows, cols, _ := x.slice(t, c.byRule(x.weight, rank))
		return Slice{Rows: rows, Cols: cols, Held: cols.cover(cutAlign(t.Layout), t.Cols)}
	}
	return c.byRule(t, rank)
}

// byRule is slice for a tensor that is cut by its own rows and columns.
func (c *cutter) byRule(t *Tensor, rank int64) Slice {
	outputs, inputs := t.axes()
	out, in := Span{0, outputs.n}, Span{0, inputs.n}
	switch t.Rule {
	case Colwise:
		out = even(outputs.n, c.tp, rank)
	case KVHeads:
		parts := c.tp
		if kv := c.heads.kv; kv > 0 && kv < c.tp {
			parts = kv
		}
		out = even(outputs.n, parts, rank/(c.tp/parts))
	case Vocab:
		out = short(outputs.n, c.tp, rank)
	case Rowwise:
		in = even(inputs.n, c.tp, rank)
	}
	rows, cols := out, in
	if t.Transposed {
		rows, cols = in, out
	}
	return Slice{Rows: rows, Cols: cols, Held: cols.cover(cutAlign(t.Layout), t.Cols)}
}

// owned is a run of a tensor's rows and the ranks of the group that need it.
type owned struct{ rows, ranks Span }

// owned divides a tensor's rows by who needs them; where that would make runs
// of fewer than least rows, it is one run for the whole group.
func (c *cutter) owned(t *Tensor, least int64) []owned {
	var runs []owned
	for r := range c.tp {
		rows := c.slice(t, r).Rows
		switch n := len(runs); {
		case rows.Len() == 0: // a short last rank
		case n > 0 && runs[n-1].rows == rows:
			runs[n-1].ranks.Stop++
		case rows.Len() < least:
			return []owned{{Span{0, t.Rows}, Span{0, c.tp}}}
		default:
			runs = append(runs, owned{rows, Span{r, r + 1}})
		}
	}
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

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
