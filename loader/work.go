package loader

import (
	"slices"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// A chunk's work is cut into runs: rows of one segment that go to the same
// targets. Rows that no target asks for are not read.

// run is a range of rows of one segment, and who gets them.
type run struct {
	seg     *shard.Segment
	enc     *encoded
	scheme  quant.Scheme // enc's, fitted to the tensor
	srcRow  int64        // stored bytes of a row of the segment
	held    bool         // every row needs all stored bytes of the segment
	rowSize []int64      // encoded bytes of a row of the segment, by plane
	rows    shard.Span
	share   []share
	primary int // index into share of one that takes whole rows, -1 without
}

// share is what one slice of a target gets of a run.
type share struct {
	t     *target
	nth   int    // of the slices that the target has of the segment
	cells []cell // by plane
}

// cell says where a plane's part lies in a target.
type cell struct {
	extent int
	rows   shard.Span
	from   int64 // byte offset of the part in an encoded row of the segment
	size   int64 // its bytes in each row
}

// at returns the cell's memory for the given rows.
func (c cell) at(t *target, rows shard.Span) []byte {
	return t.mem[c.extent][(rows.Start-c.rows.Start)*c.size : (rows.Stop-c.rows.Start)*c.size]
}

// span is a range of a run's rows, and where they lie in the chunk.
type span struct {
	run  *run
	rows shard.Span
	at   int64
}

func (s span) bytes() int64 {
	if s.run.held {
		return s.run.seg.Bytes
	}
	return s.rows.Len() * s.run.srcRow
}

// planRuns says what the targets need of a chunk, in the order of its bytes.
func planRuns(c *shard.Chunk, encodings []encoded, targets []*target) ([]run, error) {
	shares := make([][]share, len(c.Segments))
	for _, t := range targets {
		for i, e := range t.piece.Extents {
			seg := &c.Segments[e.Segment]
			planes := encodings[seg.Tensor].layout.Planes
			list := shares[e.Segment]
			if n := len(list); n == 0 || list[n-1].t != t || e.Plane == 0 {
				s := share{t: t, cells: make([]cell, len(planes))}
				if n > 0 && list[n-1].t == t {
					s.nth = list[n-1].nth + 1
				}
				for j := range s.cells {
					s.cells[j].extent = -1
				}
				list = append(list, s)
			}
			to := &list[len(list)-1].cells[e.Plane]
			if to.extent >= 0 {
				return nil, badPiece(c, t.piece, "has two extents for one plane of a segment")
			}
			*to = cell{extent: i, rows: e.Rows, size: planes[e.Plane].RowBytes(e.Cols.Len())}
			if before := e.Cols.Start - seg.Cols.Start; before > 0 && planes[e.Plane].Cols > 0 {
				to.from = planes[e.Plane].RowBytes(before)
			}
			if to.size*e.Rows.Len() != e.Bytes {
				return nil, badPiece(c, t.piece, "has an extent whose bytes are not its rows")
			}
			shares[e.Segment] = list
		}
	}
	var runs []run
	for i := range c.Segments {
		seg := &c.Segments[i]
		made, err := segmentRuns(c, seg, &encodings[seg.Tensor], shares[i])
		if err != nil {
			return nil, err
		}
		runs = append(runs, made...)
	}
	return runs, nil
}

// segmentRuns cuts a segment's rows where the set of targets changes.
func segmentRuns(c *shard.Chunk, seg *shard.Segment, enc *encoded, shares []share) ([]run, error) {
	if seg.Rows.Len() == 0 {
		return nil, nil
	}
	var cuts []int64
	for _, s := range shares {
		for _, cell := range s.cells {
			if cell.extent < 0 || cell.rows != s.cells[0].rows {
				return nil, badPiece(c, s.t.piece, "does not have the same rows in every plane")
			}
		}
		cuts = append(cuts, s.cells[0].rows.Start, s.cells[0].rows.Stop)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	rowSize := make([]int64, len(enc.layout.Planes))
	for i, p := range enc.layout.Planes {
		rowSize[i] = p.RowBytes(seg.Cols.Len())
	}
	var runs []run
	for i := 0; i+1 < len(cuts); i++ {
		r := run{seg: seg, enc: enc, scheme: enc.scheme, srcRow: seg.Bytes / seg.Rows.Len(), held: enc.tensor.Held(), rowSize: rowSize,
			rows: shard.Span{Start: cuts[i], Stop: cuts[i+1]}, primary: -1}
		for _, s := range shares {
			if s.cells[0].rows.Intersect(r.rows) != r.rows {
				continue
			}
			if r.primary < 0 && wholeRows(s, rowSize) {
				r.primary = len(r.share)
			}
			r.share = append(r.share, s)
		}
		if len(r.share) > 0 {
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// wholeRows says whether a target takes every byte of the encoded rows, so
// that they can be encoded into its memory.
func wholeRows(s share, rowSize []int64) bool {
	for i, c := range s.cells {
		if c.size != rowSize[i] {
			return false
		}
	}
	return true
}

// batches groups the rows of runs that lie side by side in the chunk into
// reads of at most limit bytes, of at least one row each, or those that are
// stored together. They end where units of digests do, if they can.
func batches(runs []run, limit int64) [][]span {
	var out [][]span
	var open []span
	var size, end int64
	flush := func() {
		if len(open) > 0 {
			out = append(out, open)
		}
		open, size = nil, 0
	}
	for i := range runs {
		r := &runs[i]
		if r.held { // it fills its chunk: all of its runs come of one read
			open = append(open, span{r, r.rows, r.seg.At})
			continue
		}
		for rows := r.rows; rows.Len() > 0; {
			at := r.seg.At + (rows.Start-r.seg.Rows.Start)*r.srcRow
			if at != end {
				flush()
			}
			n := rows.Len()
			if r.srcRow > 0 {
				n = min(n, (limit-size)/r.srcRow)
			}
			per := r.enc.tensor.Together()
			if unit := digests.UnitRows(r.srcRow); n < rows.Len() && unit%per == 0 && unit*r.srcRow <= limit {
				per = unit
			}
			if n < per && size > 0 {
				flush()
				continue
			}
			n = max(n/per*per, per)
			s := span{r, shard.Span{Start: rows.Start, Stop: rows.Start + n}, at}
			open = append(open, s)
			size += s.bytes()
			end = at + s.bytes()
			rows.Start += n
		}
	}
	flush()
	return out
}

func badPiece(c *shard.Chunk, p *shard.Piece, what string) error {
	return recovery.Errorf(recovery.Usage, "chunk %d: the piece of rank %d %s: plan again", c.ID, p.Rank, what)
}
