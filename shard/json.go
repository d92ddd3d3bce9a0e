package shard

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// JSON returns the plan in its canonical form: equal plans, equal bytes.
func (p *Plan) JSON() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("shard: write plan: %w", err)
	}
	return b, nil
}

// ParsePlan reads what JSON wrote, and refuses a plan of another version or
// one that points outside itself.
func ParsePlan(b []byte) (*Plan, error) {
	p := new(Plan)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, badPlan("%w", err)
	}
	if p.Version != Version {
		return nil, badPlan("it has version %d, this program reads version %d", p.Version, Version)
	}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		s, err := quant.Parse(t.Scheme)
		if err != nil {
			return nil, badPlan("tensor %q: %w", t.Name, err)
		}
		if t.Layout, err = s.Layout(t.DType, t.Cols); err != nil {
			return nil, badPlan("tensor %q: %w", t.Name, err)
		}
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func badPlan(format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: "read plan", Err: fmt.Errorf(format, args...), Hint: "plan again"}
}

// check says whether every number of the plan that points somewhere points
// inside: tensors, ranks, arenas, chunks.
func (p *Plan) check() error {
	for i := range p.Tensors {
		if t := &p.Tensors[i]; t.File < 0 || t.File >= len(p.Files) || t.Rows < 0 || t.Cols < 0 {
			return badPlan("tensor %q: file %d, %d×%d", t.Name, t.File, t.Rows, t.Cols)
		}
	}
	for i, r := range p.Ranks {
		if r.Rank != i {
			return badPlan("rank %d stands at %d", r.Rank, i)
		}
		for j, s := range r.Slices {
			switch {
			case s.Tensor < 0 || s.Tensor >= len(p.Tensors), j > 0 && s.Tensor <= r.Slices[j-1].Tensor:
				return badPlan("rank %d: slice %d is of tensor %d", i, j, s.Tensor)
			case !s.Rows.within(p.Tensors[s.Tensor].Rows), !s.Held.within(p.Tensors[s.Tensor].Cols),
				s.Cols.Intersect(s.Held) != s.Cols, len(s.Planes) != len(p.Tensors[s.Tensor].Layout.Planes):
				return badPlan("rank %d: slice %d is not of its tensor %q", i, j, p.Tensors[s.Tensor].Name)
			}
			for _, at := range s.Planes {
				if !fits(at.Offset, at.Bytes, r.ArenaBytes) {
					return badPlan("rank %d: slice %d lies outside its arena", i, j)
				}
			}
		}
	}
	for i := range p.Chunks {
		if err := p.checkChunk(i, &p.Chunks[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) checkChunk(id int, c *Chunk) error {
	if c.ID != id || c.File < 0 || c.File >= len(p.Files) || c.Bytes > MaxChunkBytes || !fits(c.Offset, c.Bytes, p.Files[c.File].Size) {
		return badPlan("chunk %d is not in its file", id)
	}
	for i, s := range c.Segments {
		if s.Tensor < 0 || s.Tensor >= len(p.Tensors) || !fits(s.At, s.Bytes, c.Bytes) ||
			!s.Rows.within(p.Tensors[s.Tensor].Rows) || !s.Cols.within(p.Tensors[s.Tensor].Cols) {
			return badPlan("chunk %d: segment %d is not in it", id, i)
		}
	}
	for _, piece := range c.Pieces {
		if piece.Rank < 0 || piece.Rank >= len(p.Ranks) {
			return badPlan("chunk %d: no rank %d", id, piece.Rank)
		}
		var sum int64
		for i, e := range piece.Extents {
			if e.Segment < 0 || e.Segment >= len(c.Segments) {
				return badPlan("chunk %d, rank %d: no segment %d", id, piece.Rank, e.Segment)
			}
			s := c.Segments[e.Segment]
			if e.Plane < 0 || e.Plane >= len(p.Tensors[s.Tensor].Layout.Planes) || e.Rows.Intersect(s.Rows) != e.Rows ||
				e.Cols.Intersect(s.Cols) != e.Cols || !fits(e.Offset, e.Bytes, p.Ranks[piece.Rank].ArenaBytes) {
				return badPlan("chunk %d, rank %d: extent %d lies outside", id, piece.Rank, i)
			}
			sum += e.Bytes
		}
		if sum != piece.Bytes {
			return badPlan("chunk %d, rank %d: extents have %d bytes, the piece %d", id, piece.Rank, sum, piece.Bytes)
		}
	}
	return nil
}

// within says whether s is a range of [0, n).
func (s Span) within(n int64) bool { return 0 <= s.Start && s.Start <= s.Stop && s.Stop <= n }

// fits says whether size bytes from offset are within [0, n).
func fits(offset, size, n int64) bool {
	return offset >= 0 && size >= 0 && offset <= n && size <= n-offset
}

// Digest returns the xxh3-128 of the plan's JSON, in hex.
func (p *Plan) Digest() string { return mustDigest(p) }

// Fingerprint names what a rank holds: ranks with the same fingerprint hold
// the same bytes. It covers the checkpoint, the scheme, the layout, the rank,
// the format's version, and where each tensor lies and what it becomes. It is
// not changed by the size of chunks unless that changes what a tensor becomes.
func (p *Plan) Fingerprint(rank int) string {
	r := p.Ranks[rank]
	become := make([]string, len(r.Slices))
	for i, s := range r.Slices {
		become[i] = p.Tensors[s.Tensor].Scheme
	}
	return mustDigest(struct {
		Version    int
		Checkpoint string
		Scheme     string
		Layout     Layout
		Rank       Rank
		Become     []string
	}{p.Version, p.Checkpoint, p.Options.Scheme, p.Options.Layout, r, become})
}

// digestJSON returns the xxh3-128 of v's JSON, in hex.
func digestJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := xxh3.Hash128(b).Bytes()
	return hex.EncodeToString(sum[:]), nil
}

// mustDigest is digestJSON for the types of a plan, whose every value JSON
// can write.
func mustDigest(v any) string {
	s, err := digestJSON(v)
	if err != nil {
		panic(fmt.Sprintf("shard: digest of a plan: %v", err))
	}
	return s
}
