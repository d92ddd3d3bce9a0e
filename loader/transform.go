package loader

import (
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/shard"
)

// scratchBytes is about how many bytes are kept in the cache between reading,
// encoding and scattering.
const scratchBytes = 256 << 10

// transform encodes rows and hands each target its part: transform first,
// split after, so that no layout changes a byte.
type transform struct {
	plan    *shard.Plan // where values are counted, else nil
	scratch []byte
	planes  [][]byte    // reused, by plane
	slabs   []form.Slab // reused
	beside  []form.Slab // what the chunk has of a packed weight's other parts

	measures bool    // it only looks for the largest finite magnitude
	absmax   float32 // found so far
}

// scratchNeed returns how much scratch the runs need.
func scratchNeed(runs []run) int64 {
	var need int64
	for i := range runs {
		need = max(need, runs[i].scratchRow()*runs[i].group())
	}
	return need
}

// scratchRow returns the scratch that one row takes on its way to the targets:
// as it is in the checkpoint's order, as values, and encoded, where no target
// takes whole rows.
func (r *run) scratchRow() int64 {
	n := r.orderedRow() + r.decodedRow()
	if r.primary < 0 {
		n += r.encodedRow()
	}
	return n
}

// group returns how many rows are worked on at once: as many as the scratch is
// meant for, or one in place.
func (r *run) group() int64 {
	row := r.scratchRow()
	switch {
	case row == 0:
		return r.rows.Len()
	case r.enc.inPlace:
		return 1
	}
	return min(max(scratchBytes/row, 1), r.rows.Len())
}

// orderedRow returns the bytes of a row that its form must read; 0 where
// stored rows are plain.
func (r *run) orderedRow() int64 {
	f := r.enc.tensor.Source
	if f == nil {
		return 0
	}
	elements, bytes := f.Type().Block()
	return r.seg.Cols.Len() / elements * bytes
}

// decodedRow returns the bytes of a row as F32, 0 where the scheme takes what
// is stored.
func (r *run) decodedRow() int64 {
	if !r.enc.decodes() {
		return 0
	}
	return 4 * r.seg.Cols.Len()
}

// encodedRow returns the bytes of one encoded row in all planes.
func (r *run) encodedRow() int64 {
	var n int64
	for _, s := range r.rowSize {
		n += s
	}
	return n
}

// batch transforms spans whose stored bytes begin at src.
func (x *transform) batch(b []span, src []byte) {
	for _, s := range b {
		x.rows(s, src[s.at-b[0].at:])
	}
}

// rows transforms the stored bytes src of a span.
func (x *transform) rows(s span, src []byte) {
	r := s.run
	group := r.group()
	for at := s.rows.Start; at < s.rows.Stop; at += group {
		part := span{run: r, rows: shard.Span{Start: at, Stop: min(at+group, s.rows.Stop)}}
		rows, scratch := x.given(part, s, src)
		if x.measures {
			from := r.enc.tensor.From
			n := part.rows.Len() * r.seg.Cols.Len()
			x.absmax = max(x.absmax, quant.FiniteAbsmax(rows[:n*int64(from.Size())], from))
			continue
		}
		x.tally(part, rows)
		if r.primary >= 0 {
			x.intoFirst(part)
		} else {
			x.intoScratch(part, scratch)
		}
		r.encode(x.planes, rows, part.rows)
		x.copyOthers(part)
	}
	s.filled()
}

// given returns rows of a span, whose stored bytes are src, as the scheme takes
// them, and what is left of the scratch. Values come first in it, which keeps
// them aligned.
func (x *transform) given(part, s span, src []byte) (rows, scratch []byte) {
	r, n := s.run, part.rows.Len()
	t := r.enc.tensor
	values, scratch := x.scratch[:n*r.decodedRow()], x.scratch[n*r.decodedRow():]
	if t.Source == nil {
		rows = src[(part.rows.Start-s.rows.Start)*r.srcRow:]
	} else {
		rows, scratch = scratch[:n*r.orderedRow()], scratch[n*r.orderedRow():]
		x.slabs = append(x.slabs[:0], form.Slab{Data: src})
		if !r.held {
			x.slabs[0].First = s.rows.Start / t.Together()
		}
		x.slabs = append(x.slabs, x.beside...)
		t.Source.Read(rows, x.slabs, form.Range(part.rows), form.Range(r.seg.Cols))
	}
	if r.enc.decodes() {
		from := t.DType
		if t.Source != nil {
			from = t.Source.Type()
		}
		quant.Decode(floats(values, n*r.seg.Cols.Len()), rows, from)
		rows = values
	}
	return rows, scratch
}

// filled tells the targets that a span is written.
func (s span) filled() {
	for _, sh := range s.run.share {
		for _, c := range sh.cells {
			sh.t.filled[c.extent] += s.rows.Len() * c.size
		}
		sh.t.advance()
	}
}

// intoFirst sets planes to the memory of the target that takes whole rows.
func (x *transform) intoFirst(s span) {
	first := s.run.share[s.run.primary]
	x.planes = x.planes[:0]
	for _, c := range first.cells {
		x.planes = append(x.planes, c.at(first.t, s.rows))
	}
}

// intoScratch sets planes to scratch memory.
func (x *transform) intoScratch(s span, scratch []byte) {
	x.planes = x.planes[:0]
	for _, size := range s.run.rowSize {
		n := size * s.rows.Len()
		x.planes = append(x.planes, scratch[:n])
		scratch = scratch[n:]
	}
}

// copyOthers copies from there to the targets whose memory it is not.
func (x *transform) copyOthers(s span) {
	for i, sh := range s.run.share {
		if i != s.run.primary {
			scatter(x.planes, s.run, sh, s.rows)
		}
	}
}

// keepsBytes says that a batch may be read into the memory of a target, which
// spares a copy: one span, of a tensor that keeps its bytes, whose rows the
// target takes whole.
func keepsBytes(b []span) bool {
	t := b[0].run.enc.tensor
	return len(b) == 1 && b[0].run.primary >= 0 && t.Scheme == "none" && t.Source == nil
}

// first returns that memory.
func (x *transform) first(s span) []byte {
	x.intoFirst(s)
	return x.planes[0]
}

// stored goes on where first has been read into.
func (x *transform) stored(s span) {
	x.copyOthers(s)
	s.filled()
}

func (r *run) encode(dst [][]byte, src []byte, rows shard.Span) {
	r.scheme.Encode(dst, src, r.enc.tensor.From, int(rows.Len()), int(r.seg.Cols.Len()))
}

// scatter copies one target's part of encoded rows.
func scatter(planes [][]byte, r *run, sh share, rows shard.Span) {
	for p, c := range sh.cells {
		dst, whole := c.at(sh.t, rows), r.rowSize[p]
		if c.size == whole {
			copy(dst, planes[p])
			continue
		}
		src := planes[p][c.from:]
		for at := int64(0); at < rows.Len(); at++ {
			copy(dst[at*c.size:(at+1)*c.size], src[at*whole:])
		}
	}
}
