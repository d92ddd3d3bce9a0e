package shard

import "fmt"

// check says whether t divides over the ranks, between what is read together.
func (c *cutter) check(t *Tensor, r rule, module string) error {
	if err := c.checkRule(t, r, module); err != nil {
		return err
	}
	if t.Experts > 0 {
		if err := c.checkExperts(t.Name, t.Experts); err != nil {
			return err
		}
	}
	per := t.Together()
	for tp := range c.tp {
		for _, s := range c.slices(t, position{tp: tp}) {
			if s.Rows.Start%per != 0 || s.Rows.Stop%per != 0 {
				return usage(t.Name, "use tp 1", "rows [%d, %d) end inside %d that are stored as one", s.Rows.Start, s.Rows.Stop, per)
			}
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
	case Vocab:
		return c.checkVocab(t, out)
	case QKV:
		return c.checkFused(t, out)
	case PackedColwise:
		return c.halves(t, out)
	case PackedRowwise:
		return c.halves(t, in)
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
	}
	return c.overHeads(t, n, shared)
}

// overHeads checks that n heads divide over the group, or are shared.
func (c *cutter) overHeads(t *Tensor, n int64, shared bool) error {
	if n%c.tp == 0 || shared && c.tp%n == 0 {
		return nil
	}
	return usage(t.Name, would("tp", n, c.tp), "%d heads do not divide over tp %d", n, c.tp)
}

// checkFused checks a fused projection of queries, keys and values.
func (c *cutter) checkFused(t *Tensor, out axis) error {
	q, kv := c.heads.q, c.heads.kv
	switch {
	case q <= 0 || kv <= 0:
		return usage(t.Name, "use tp 1, or put the model's config.json beside its weights",
			"its %d %s are queries, keys and values, and the number of heads, which says where each begins, is unknown", out.n, out.name)
	case out.n%(q+2*kv) != 0:
		return invalid(t.Name, "%d %s are not %d heads of queries and %d each of keys and values", out.n, out.name, q, kv)
	}
	if err := c.overHeads(t, q, false); err != nil {
		return err
	}
	return c.overHeads(t, kv, true)
}

// checkVocab checks that a padded vocabulary divides over the group. Without
// padding the last rank is short.
func (c *cutter) checkVocab(t *Tensor, out axis) error {
	if c.pad == 0 {
		return nil
	}
	return c.divides(t, axis{up(out.n, c.pad), fmt.Sprintf("%s (%d, padded to a multiple of %d)", out.name, out.n, c.pad)})
}

// divides checks that an axis divides over the group.
func (c *cutter) divides(t *Tensor, a axis) error {
	if a.n%c.tp == 0 {
		return nil
	}
	return usage(t.Name, would("tp", a.n, c.tp), "%d %s do not divide over tp %d", a.n, a.name, c.tp)
}

// halves checks that each half of an axis divides over the group.
func (c *cutter) halves(t *Tensor, a axis) error {
	if a.n%2 != 0 {
		return invalid(t.Name, "%d %s are not two halves", a.n, a.name)
	}
	return c.divides(t, axis{a.n / 2, a.name + " of each half"})
}

// checkExperts checks that experts divide over the groups.
func (c *cutter) checkExperts(tensor string, n int64) error {
	if n%c.ep == 0 {
		return nil
	}
	return usage(tensor, would("ep", n, c.ep), "%d experts do not divide over ep %d", n, c.ep)
}

// would hints at the largest degree below the one asked for that divides n.
func would(degree string, n, asked int64) string {
	fits := min(n, asked-1)
	for n%fits != 0 {
		fits--
	}
	return fmt.Sprintf("%s %d would", degree, fits)
}
