package shard

import (
	"slices"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/source"
)

// Version is the version of the plan's format. Plans of another version are
// refused.
const Version = 3

// Align is the alignment, in bytes, of every plane in an arena.
const Align = 256

// Chunk sizes, in stored bytes.
const (
	DefaultChunkBytes = 8 << 20
	MaxChunkBytes     = 16 << 20
	// MaxHeldBytes bounds what is held whole until it is decoded: weights that
	// are stored column by column.
	MaxHeldBytes = 128 << 20
)

// Layout is the parallel layout of a model. Zero counts as one.
type Layout struct {
	TP int `json:"tp"` // tensor parallel: ranks that share each layer
	PP int `json:"pp"` // pipeline parallel: ranks that share the layers
	EP int `json:"ep"` // expert parallel: ranks that share the experts
	DP int `json:"dp"` // data parallel: whole copies
}

// Options is what a plan depends on besides the Index.
type Options struct {
	Layout     Layout `json:"layout"`
	Scheme     string `json:"scheme"`      // a scheme's name or a recipe's; "" is "none"
	ChunkBytes int64  `json:"chunk_bytes"` // MinChunkBytes to MaxChunkBytes; 0 is DefaultChunkBytes
	// KeepOriginal keeps what a tensor was stored as beside what it becomes.
	KeepOriginal bool `json:"keep_original,omitempty"`
	// Overrides say what tensors become by their names; the first that matches
	// a tensor counts, and Scheme is for what none of them matches.
	Overrides []Override `json:"overrides,omitempty"`
	// Rules say how modules are divided, before the checkpoint's own plan and
	// the built-in rules; the first that matches a tensor counts.
	Rules []ModuleRule `json:"rules,omitempty"`
	// PadVocab is what the rows of embedding and head are filled up to a
	// multiple of, with zeros, before they are divided: vLLM's 64. 0 is none:
	// the last rank is short.
	PadVocab int64 `json:"pad_vocab,omitempty"`
}

// Override says what tensors become whose names match a pattern.
type Override = quant.Override

// Plan says which chunk lands where, transformed how. A tensor is seen as
// rows × cols: rows is its first dimension, cols the product of the others
// (a vector is n × 1, a scalar 1 × 1, a tensor without elements 0 × 0, one
// whose rows end inside a byte 1 × n, and the matrices of E experts E·rows ×
// cols).
type Plan struct {
	Version    int           `json:"version"`
	Checkpoint string        `json:"checkpoint"` // digest of the Index
	Options    Options       `json:"options"`
	Files      []source.File `json:"files"`
	Tensors    []Tensor      `json:"tensors"`
	Ranks      []Rank        `json:"ranks"`
	Chunks     []Chunk       `json:"chunks"` // in the order they should be loaded
	Fallbacks  []Note        `json:"fallbacks"`
	Straddles  []Note        `json:"straddles"`
	Warnings   []string      `json:"warnings"`
	// StoredBytes counts the distinct stored tensor bytes that the plan needs,
	// ReadBytes what it reads from the source (more only where a scheme needs
	// a second pass), PlacedBytes the sum of all pieces.
	StoredBytes int64 `json:"stored_bytes"`
	ReadBytes   int64 `json:"read_bytes"`
	PlacedBytes int64 `json:"placed_bytes"`
}

// Note says why a tensor is not treated like the others.
type Note struct {
	Tensor string `json:"tensor"`
	Reason string `json:"reason"`
}

// Tensor is a stored tensor and what it becomes.
type Tensor struct {
	Name       string     `json:"name"`
	DType      dtype.Type `json:"dtype"` // stored
	Shape      []int64    `json:"shape"`
	Transposed bool       `json:"transposed,omitempty"` // a weight stored [in, out]: Rule is for its transpose
	Codes      bool       `json:"codes,omitempty"`      // stored as DType, but no values of it: see checkpoint.Tensor
	File       int        `json:"file"`
	Offset     int64      `json:"offset"`
	Bytes      int64      `json:"bytes"`
	Rows       int64      `json:"rows"`
	Cols       int64      `json:"cols"`
	// Experts is how many matrices of the same shape, one for each expert, lie
	// one after the other: Rows are those of all. 0 for a single one.
	Experts int64  `json:"experts,omitempty"`
	Rule    Rule   `json:"rule"`   // of each matrix
	Scheme  string `json:"scheme"` // what it becomes
	Why     string `json:"why"`    // which rule says so
	// Form is how the stored bytes give rows, where they are not plain rows of
	// elements (quant/form); DType is of what is stored.
	Form string `json:"form,omitempty"`

	// Parts are where the form's other stored arrays lie, after the weight
	// itself, of a weight that a quantizer divided over several.
	Parts []Run `json:"parts,omitempty"`

	// What follows from the fields above.
	Layout quant.Layout `json:"-"` // of a row of what it becomes
	From   dtype.Type   `json:"-"` // of the elements that the scheme is given: F32 where they are decoded first
	Source form.Form    `json:"-"` // nil for plain rows
}

// Placed returns the bytes of one whole copy of what the tensor becomes.
func (t *Tensor) Placed() (n int64) {
	for _, p := range t.Layout.Planes {
		n += t.Rows * p.RowBytes(t.Cols)
	}
	return n
}

// Rule is how a tensor is divided over the ranks of a tp group.
type Rule string

// The rules.
const (
	Colwise       Rule = "colwise"        // rows of [out, in] cut: one contiguous range a rank
	Rowwise       Rule = "rowwise"        // columns of [out, in] cut: strided
	PackedColwise Rule = "packed_colwise" // rows are two halves, such as gate and up, each cut
	PackedRowwise Rule = "packed_rowwise" // columns are
	Vocab         Rule = "vocab"          // rows cut evenly, the last rank short or padded
	KVHeads       Rule = "kv_heads"       // rows cut by kv head, replicated where ranks outnumber heads
	QKV           Rule = "qkv"            // rows of queries, keys and values, each cut by its heads
	Replicated    Rule = "replicated"     // every rank holds all of it
)

// Span is the half-open range [Start, Stop).
type Span struct {
	Start int64 `json:"start"`
	Stop  int64 `json:"stop"`
}

// Len returns Stop - Start.
func (s Span) Len() int64 { return s.Stop - s.Start }

// Intersect returns the part that s and t share, empty where they share none.
func (s Span) Intersect(t Span) Span {
	r := Span{max(s.Start, t.Start), min(s.Stop, t.Stop)}
	if r.Stop < r.Start {
		r.Stop = r.Start
	}
	return r
}

// from returns s, counted from start.
func (s Span) from(start int64) Span { return Span{s.Start + start, s.Stop + start} }

// within says whether s is a range of [0, n).
func (s Span) within(n int64) bool { return 0 <= s.Start && s.Start <= s.Stop && s.Stop <= n }

// cover returns the smallest range of [0, n) that holds s and is cut at
// multiples of align only.
func (s Span) cover(align, n int64) Span {
	return Span{s.Start / align * align, min((s.Stop+align-1)/align*align, n)}
}

// Rank is one position of the layout and the arena it owns.
type Rank struct {
	Rank       int     `json:"rank"`
	DP         int     `json:"dp"`
	PP         int     `json:"pp"`
	EP         int     `json:"ep"`
	TP         int     `json:"tp"`
	ArenaBytes int64   `json:"arena_bytes"`
	Slices     []Slice `json:"slices"` // in arena order
}

// Slice is the tensor range that a rank holds. Rows × Cols is what it owns;
// Held, a cover of Cols by whole blocks, is what its planes contain. Where
// they differ the rank's cut straddles a block.
//
// A rank has several slices of a tensor where what it owns does not lie
// together: the parts of a fused projection, or rows of several experts. They
// follow each other, by rows, then columns. Where they have the same columns,
// their rows follow each other in the arena too, plane by plane, so that a plane
// is one array without gaps.
type Slice struct {
	Tensor int         `json:"tensor"` // index into Plan.Tensors
	Rows   Span        `json:"rows"`
	Cols   Span        `json:"cols"`
	Held   Span        `json:"held"`
	Pad    int64       `json:"pad,omitempty"` // rows of zeros after Rows, which nothing writes: see Options.PadVocab
	Planes []Placement `json:"planes"`        // one for each of the tensor's Layout.Planes
}

// Placement is where a plane of a slice lies in the arena: Rows.Len() + Pad
// rows of RowBytes each, without gaps.
type Placement struct {
	Offset   int64 `json:"offset"`
	Bytes    int64 `json:"bytes"`
	RowBytes int64 `json:"row_bytes"`
}

// Run is a run of stored bytes.
type Run struct {
	File   int   `json:"file"`
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
}

// Chunk is a run of stored bytes that is read, transformed and placed as one.
// One of a packed weight has one segment, and runs of the weight's other parts
// beside.
type Chunk struct {
	ID       int       `json:"id"` // its index in Plan.Chunks
	File     int       `json:"file"`
	Offset   int64     `json:"offset"`
	Bytes    int64     `json:"bytes"`
	Also     []Run     `json:"also,omitempty"` // by part of the form, from the second on
	Segments []Segment `json:"segments"`
	Pieces   []Piece   `json:"pieces"` // one for each rank that gets any of it, by rank
}

// Stored returns how many bytes are read for the chunk.
func (c *Chunk) Stored() int64 {
	n := c.Bytes
	for _, r := range c.Also {
		n += r.Bytes
	}
	return n
}

// Piece returns the chunk's piece for a rank, nil where it has none.
func (c *Chunk) Piece(rank int) *Piece {
	i, ok := slices.BinarySearchFunc(c.Pieces, rank, func(p Piece, r int) int { return p.Rank - r })
	if !ok {
		return nil
	}
	return &c.Pieces[i]
}

// Segment is the part of one tensor that a chunk carries: whole rows, or a
// run of whole blocks of one row that is longer than a chunk.
type Segment struct {
	Tensor int   `json:"tensor"`
	At     int64 `json:"at"` // offset of its first byte in the chunk; within an earlier segment where they share bytes
	Bytes  int64 `json:"bytes"`
	Rows   Span  `json:"rows"`
	Cols   Span  `json:"cols"`
}

// Piece is what a chunk leaves in one rank's arena: the concatenation of its
// extents, in order. Its digest is the xxh3-128 of that concatenation.
type Piece struct {
	Rank    int      `json:"rank"`
	Bytes   int64    `json:"bytes"`
	Extents []Extent `json:"extents"`
}

// Extent is one contiguous run of a piece: the encoded form of rows × cols of
// a segment, in one plane.
type Extent struct {
	Segment int   `json:"segment"` // index into Chunk.Segments
	Plane   int   `json:"plane"`
	Rows    Span  `json:"rows"`
	Cols    Span  `json:"cols"`   // within the slice's Held
	Offset  int64 `json:"offset"` // in the rank's arena
	Bytes   int64 `json:"bytes"`
}
