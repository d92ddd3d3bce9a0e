package shard

import (
	"cmp"
	"slices"

	"github.com/gantry-ml/gantry/quant"
)

// ONNX models may have several tensors over the same external bytes. Such bytes
// are read once: the chunks of the tensor that has all of them carry a segment
// of each other too.

// hosts returns, by tensor, one whose stored bytes hold all of its own, -1 where
// there is none. A host has none itself.
func (b *builder) hosts() []int {
	tensors := b.plan.Tensors
	hosts := make([]int, len(tensors))
	var order []int
	for i := range tensors {
		hosts[i] = -1
		if t := &tensors[i]; t.Bytes > 0 && !t.packed() && !b.plan.ReadTwice(i) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		x, y := &tensors[i], &tensors[j]
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Offset, y.Offset), cmp.Compare(y.Bytes, x.Bytes))
	})
	host := -1
	for _, i := range order {
		t := &tensors[i]
		if host >= 0 && tensors[host].File == t.File && t.Offset+t.Bytes <= tensors[host].Offset+tensors[host].Bytes {
			hosts[i] = host
		} else {
			host = i
		}
	}
	return hosts
}

// share appends a tensor's segments to chunks that have all of its bytes, by
// offset. It does nothing where one of them ends within a row of the tensor, or
// where the tensor is needed as a whole and no chunk has that.
func (b *builder) share(tensor int, chunks []Chunk) bool {
	t := &b.plan.Tensors[tensor]
	group := rowBytes(t) * t.Together()
	end := func(c *Chunk) int64 { return min(c.Offset+c.Bytes, t.Offset+t.Bytes) }
	first, _ := slices.BinarySearchFunc(chunks, t.Offset, func(c Chunk, at int64) int { return cmp.Compare(c.Offset+c.Bytes, at+1) })
	stop := first
	for at := t.Offset; at < t.Offset+t.Bytes; stop++ {
		if stop == len(chunks) || chunks[stop].Offset > at || (end(&chunks[stop])-t.Offset)%group != 0 {
			return false
		}
		at = end(&chunks[stop])
	}
	if t.Held() || t.Layout.Scope == quant.Tensor && stop-first > 1 {
		return false
	}
	for i := range chunks[first:stop] {
		c := &chunks[first+i]
		start := max(c.Offset, t.Offset)
		rows := Span{(start - t.Offset) / rowBytes(t), (end(c) - t.Offset) / rowBytes(t)}
		c.Segments = append(c.Segments, Segment{Tensor: tensor, At: start - c.Offset, Bytes: end(c) - start, Rows: rows, Cols: Span{0, t.Cols}})
	}
	b.plan.StoredBytes -= t.Bytes // its host has them
	return true
}

// Shared says that some of the chunk's bytes are of several segments.
func (c *Chunk) Shared() bool {
	var n int64
	for _, s := range c.Segments {
		n += s.Bytes
	}
	return n > c.Bytes
}
