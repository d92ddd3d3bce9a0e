package loader

import "github.com/gantry-ml/gantry/shard"

// scratchBytes is about how many encoded bytes are kept in the cache between
// encoding and scattering.
const scratchBytes = 256 << 10

// transform encodes rows and hands each target its part: transform first,
// split after, so that no layout changes a byte.
type transform struct {
	scratch []byte
	planes  [][]byte // reused, by plane
}

// scratchNeed returns how much scratch the runs need: those of which no
// target takes whole rows.
func scratchNeed(runs []run) int64 {
	var need int64
	for i := range runs {
		if r := &runs[i]; r.primary < 0 {
			row := r.encodedRow()
			need = max(need, min(max(scratchBytes, row), row*r.rows.Len()))
		}
	}
	return need
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
	if r.primary >= 0 {
		x.intoFirst(s)
		r.encode(x.planes, src, s.rows)
		x.copyFirst(s)
	} else {
		group := max(int64(len(x.scratch))/max(r.encodedRow(), 1), 1)
		for at := s.rows.Start; at < s.rows.Stop; at += group {
			rows := shard.Span{Start: at, Stop: min(at+group, s.rows.Stop)}
			x.scattered(r, rows, src[(at-s.rows.Start)*r.srcRow:])
		}
	}
	s.filled()
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

// copyFirst copies from there to the other targets.
func (x *transform) copyFirst(s span) {
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
	return len(b) == 1 && b[0].run.primary >= 0 && b[0].run.enc.tensor.Scheme == "none"
}

// first returns that memory.
func (x *transform) first(s span) []byte {
	x.intoFirst(s)
	return x.planes[0]
}

// stored goes on where first has been read into.
func (x *transform) stored(s span) {
	x.copyFirst(s)
	s.filled()
}

// scattered encodes into scratch memory and copies each target its columns.
func (x *transform) scattered(r *run, rows shard.Span, src []byte) {
	x.planes = x.planes[:0]
	rest := x.scratch
	for _, size := range r.rowSize {
		n := size * rows.Len()
		x.planes = append(x.planes, rest[:n])
		rest = rest[n:]
	}
	r.encode(x.planes, src, rows)
	for _, sh := range r.share {
		scatter(x.planes, r, sh, rows)
	}
}

func (r *run) encode(dst [][]byte, src []byte, rows shard.Span) {
	n := rows.Len()
	from := r.enc.tensor.DType
	r.enc.scheme.Encode(dst, src[:n*r.srcRow], from, int(n), int(r.seg.Cols.Len()))
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
