package shard_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// stored is a checkpoint in memory.
type stored struct {
	ix    *checkpoint.Index
	files [][]byte
}

// add appends a tensor to a file, gap bytes after the one before.
func (s *stored) add(file int, gap int64, name string, d dtype.Type, shape ...int64) {
	n, err := dtype.Elements(shape)
	if err != nil {
		panic(err)
	}
	size, err := d.Bytes(n)
	if err != nil {
		panic(err)
	}
	for len(s.ix.Files) <= file {
		s.ix.Files = append(s.ix.Files, source.File{Name: fmt.Sprintf("%d.safetensors", len(s.ix.Files)), ID: "1"})
	}
	f := &s.ix.Files[file]
	f.Size += gap
	s.ix.Tensors = append(s.ix.Tensors, checkpoint.Tensor{Name: name, DType: d, Shape: shape, File: file, Offset: f.Size, Bytes: size})
	f.Size += size
}

// fill makes up the files' bytes: small floats where tensors are floats.
func (s *stored) fill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	s.files = make([][]byte, len(s.ix.Files))
	for i, f := range s.ix.Files {
		s.files[i] = make([]byte, f.Size)
		for j := range s.files[i] {
			s.files[i][j] = byte(r.Uint32())
		}
	}
	for _, t := range s.ix.Tensors {
		// The exponent's upper bits: values of about 1, never NaN or infinite.
		b := s.files[t.File][t.Offset : t.Offset+t.Bytes]
		if size := t.DType.Size(); t.DType.Float() {
			for i := size - 1; i < len(b); i += size {
				b[i] = b[i]&0x80 | 0x3b
			}
		}
	}
}

// bytes returns a tensor's stored bytes.
func (s *stored) bytes(t *shard.Tensor) []byte {
	return s.files[t.File][t.Offset : t.Offset+t.Bytes]
}

// encode returns the planes of rows × cols elements.
func encode(t testing.TB, tensor *shard.Tensor, src []byte, rows, cols int64) [][]byte {
	scheme, err := quant.Parse(tensor.Scheme)
	if err != nil {
		t.Fatal(err)
	}
	planes := make([][]byte, len(tensor.Layout.Planes))
	for i, p := range tensor.Layout.Planes {
		planes[i] = make([]byte, rows*p.RowBytes(cols))
	}
	if rows*cols > 0 {
		scheme.Encode(planes, src, tensor.DType, int(rows), int(cols))
	}
	return planes
}

type fataler interface{ Fatalf(string, ...any) }

// load carries a plan out in the simplest way, and checks that each stored
// byte is read once and each byte of each plane is written once.
func load(t testing.TB, f fataler, s *stored, p *shard.Plan) [][]byte {
	arenas, writes := make([][]byte, len(p.Ranks)), make([][]byte, len(p.Ranks))
	for i, r := range p.Ranks {
		arenas[i], writes[i] = make([]byte, r.ArenaBytes), make([]byte, r.ArenaBytes)
	}
	reads := make([][]byte, len(s.files))
	for i := range s.files {
		reads[i] = make([]byte, len(s.files[i]))
	}
	for _, c := range p.Chunks {
		if c.Bytes > p.Options.ChunkBytes || c.Bytes <= 0 {
			f.Fatalf("chunk %d has %d bytes", c.ID, c.Bytes)
		}
		raw := s.files[c.File][c.Offset : c.Offset+c.Bytes]
		for i := range raw {
			reads[c.File][c.Offset+int64(i)]++
		}
		planes := make([][][]byte, len(c.Segments))
		var at int64
		for i, seg := range c.Segments {
			if seg.At != at {
				f.Fatalf("chunk %d segment %d starts at %d, want %d", c.ID, i, seg.At, at)
			}
			at += seg.Bytes
			planes[i] = encode(t, &p.Tensors[seg.Tensor], raw[seg.At:seg.At+seg.Bytes], seg.Rows.Len(), seg.Cols.Len())
		}
		if at != c.Bytes {
			f.Fatalf("chunk %d has %d bytes, its segments %d", c.ID, c.Bytes, at)
		}
		last := -1
		for _, piece := range c.Pieces {
			if piece.Rank <= last {
				f.Fatalf("chunk %d: pieces are not in rank order", c.ID)
			}
			last = piece.Rank
			var sum int64
			for _, e := range piece.Extents {
				seg := c.Segments[e.Segment]
				plane := p.Tensors[seg.Tensor].Layout.Planes[e.Plane]
				row, part := plane.RowBytes(seg.Cols.Len()), plane.RowBytes(e.Cols.Len())
				var skip int64
				if plane.Cols > 0 {
					skip = plane.RowBytes(e.Cols.Start - seg.Cols.Start)
				}
				to := e.Offset
				for r := e.Rows.Start - seg.Rows.Start; r < e.Rows.Stop-seg.Rows.Start; r++ {
					copy(arenas[piece.Rank][to:to+part], planes[e.Segment][e.Plane][r*row+skip:])
					for i := range part {
						writes[piece.Rank][to+i]++
					}
					to += part
				}
				if to-e.Offset != e.Bytes {
					f.Fatalf("chunk %d rank %d: extent %+v has %d bytes", c.ID, piece.Rank, e, to-e.Offset)
				}
				sum += e.Bytes
			}
			if sum != piece.Bytes || sum == 0 {
				f.Fatalf("chunk %d rank %d: piece of %d bytes, extents %d", c.ID, piece.Rank, piece.Bytes, sum)
			}
		}
	}
	for _, tensor := range p.Tensors {
		for i := range tensor.Bytes {
			if n := reads[tensor.File][tensor.Offset+i]; n != 1 {
				f.Fatalf("%s: byte %d is read %d times", tensor.Name, i, n)
			}
			reads[tensor.File][tensor.Offset+i] = 0
		}
	}
	for file := range reads {
		if i := bytes.IndexByte(reads[file], 1); i >= 0 {
			f.Fatalf("file %d byte %d is read, but is no tensor's", file, i)
		}
	}
	checkPlanes(f, p, writes)
	return arenas
}

// checkPlanes checks that planes are aligned, do not overlap, and that every
// byte of them, and no other, was written once.
func checkPlanes(f fataler, p *shard.Plan, writes [][]byte) {
	var placed int64
	for i, r := range p.Ranks {
		if r.Rank != i || p.Options.Layout.Rank(r.DP, r.PP, r.TP) != i {
			f.Fatalf("rank %d is numbered %+v", i, r)
		}
		for _, s := range r.Slices {
			for j, at := range s.Planes {
				if at.Offset%shard.Align != 0 || at.Bytes != s.Rows.Len()*at.RowBytes {
					f.Fatalf("rank %d: plane %d of %s lies badly: %+v", i, j, p.Tensors[s.Tensor].Name, at)
				}
				for b := at.Offset; b < at.Offset+at.Bytes; b++ {
					if writes[i][b] != 1 {
						f.Fatalf("rank %d: byte %d of plane %d of %s is written %d times", i, b-at.Offset, j, p.Tensors[s.Tensor].Name, writes[i][b])
					}
					writes[i][b] = 0
				}
				placed += at.Bytes
			}
		}
		if b := bytes.IndexByte(writes[i], 1); b >= 0 {
			f.Fatalf("rank %d: byte %d of no plane is written", i, b)
		}
	}
	if placed != p.PlacedBytes {
		f.Fatalf("PlacedBytes is %d, planes have %d", p.PlacedBytes, placed)
	}
}

// checkJoin checks that joining the ranks gives what the whole tensor becomes
// without any layout, in groups of rows.
func checkJoin(t testing.TB, f fataler, s *stored, p *shard.Plan, arenas [][]byte, group int64) {
	read := func(rank int, b []byte, off int64) error {
		copy(b, arenas[rank][off:off+int64(len(b))])
		return nil
	}
	for i := range p.Tensors {
		tensor := &p.Tensors[i]
		want := encode(t, tensor, s.bytes(tensor), tensor.Rows, tensor.Cols)
		got := make([][]byte, len(want))
		for r := int64(0); r < tensor.Rows; r += group {
			rows := shard.Span{Start: r, Stop: min(r+group, tensor.Rows)}
			dst := make([][]byte, len(want))
			for j, plane := range tensor.Layout.Planes {
				dst[j] = make([]byte, rows.Len()*plane.RowBytes(tensor.Cols))
			}
			if err := p.JoinRows(i, rows, dst, read); err != nil {
				f.Fatalf("%v", err)
			}
			for j := range dst {
				got[j] = append(got[j], dst[j]...)
			}
		}
		for j := range want {
			if !bytes.Equal(got[j], want[j]) {
				f.Fatalf("%s: plane %d joined differs from the whole (%s, %s)", tensor.Name, j, tensor.Scheme, p.Options.Layout)
			}
		}
		var elements int64
		for _, part := range p.Cover(i) {
			elements += part.Slice.Rows.Len() * part.Slice.Cols.Len()
		}
		if elements != tensor.Rows*tensor.Cols {
			f.Fatalf("%s: the cover has %d elements of %d×%d", tensor.Name, elements, tensor.Rows, tensor.Cols)
		}
	}
}

// drawStored draws a small checkpoint of the Llama family with oddities.
func drawStored(t *rapid.T) *stored {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors"}}
	floats := rapid.SampledFrom([]dtype.Type{dtype.F32, dtype.BF16, dtype.F16})
	d := floats.Draw(t, "dtype")
	files := rapid.IntRange(1, 3).Draw(t, "files")
	add := func(name string, d dtype.Type, shape ...int64) {
		s.add(rapid.IntRange(0, files-1).Draw(t, "file"), rapid.SampledFrom([]int64{0, 0, 0, 8}).Draw(t, "gap"), name, d, shape...)
	}
	kv := rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "kv")
	a := &s.ix.Architecture
	*a = checkpoint.Architecture{Name: "llama", Heads: kv * rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "group"), KVHeads: kv}
	dim := rapid.SampledFrom([]int64{1, 2, 6, 8, 16}).Draw(t, "head dim")
	hidden := rapid.SampledFrom([]int64{8, 32, 64, 96}).Draw(t, "hidden")
	inter := 4 * rapid.Int64Range(1, 60).Draw(t, "intermediate")
	vocab := rapid.Int64Range(1, 70).Draw(t, "vocab")
	a.TiedEmbeddings = rapid.Bool().Draw(t, "tied")
	add("model.embed_tokens.weight", d, vocab, hidden)
	layers := rapid.IntRange(0, 4).Draw(t, "layers")
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", d, hidden)
		add(p+"self_attn.q_proj.weight", d, a.Heads*dim, hidden)
		add(p+"self_attn.q_proj.bias", d, a.Heads*dim)
		add(p+"self_attn.k_proj.weight", d, kv*dim, hidden)
		add(p+"self_attn.v_proj.weight", d, kv*dim, hidden)
		add(p+"self_attn.v_proj.bias", floats.Draw(t, "bias"), kv*dim)
		add(p+"self_attn.o_proj.weight", d, hidden, a.Heads*dim)
		add(p+"mlp.gate_proj.weight", d, inter, hidden)
		add(p+"mlp.down_proj.weight", rapid.SampledFrom([]dtype.Type{dtype.F32, dtype.BF16, dtype.F4, dtype.F6E2M3, dtype.I8}).Draw(t, "down"), hidden, inter)
		add(p+"mlp.down_proj.bias", d, hidden)
	}
	add("model.norm.weight", d, hidden)
	add("odd.scalar", dtype.I64)
	add("odd.empty", d, 3, 0)
	add("odd.cube", d, 2, 3, 4)
	add("odd.nibbles", dtype.F4, 2, 3)
	if rapid.Bool().Draw(t, "long") {
		add("odd.long", d, 2, 40000)
	}
	if rapid.Bool().Draw(t, "head") {
		add("lm_head.weight", d, vocab, hidden)
	}
	return s
}

// TestLoad is the property the package is there for: whatever the layout, the
// ranks together hold what the whole tensors become, every stored byte is
// read once and every placed byte written once.
func TestLoad(t *testing.T) {
	var done, refused int
	rapid.Check(t, func(r *rapid.T) {
		s := drawStored(r)
		degree := rapid.SampledFrom([]int{0, 1, 2, 3, 4, 8})
		o := shard.Options{ChunkBytes: rapid.Int64Range(shard.MinChunkBytes, 2*shard.MinChunkBytes).Draw(r, "chunk"),
			Layout: shard.Layout{TP: degree.Draw(r, "tp"), PP: rapid.IntRange(0, 3).Draw(r, "pp"), DP: rapid.IntRange(0, 2).Draw(r, "dp")},
			Scheme: rapid.SampledFrom(quant.Names()).Draw(r, "scheme")}
		p, err := shard.Build(s.ix, o)
		if err != nil {
			if recovery.ClassOf(err) != recovery.Usage || o.Layout.TP < 2 && o.Layout.PP < 2 {
				r.Fatalf("%+v: %v", o, err)
			}
			refused++
			return
		}
		done++
		s.fill(rapid.Uint64().Draw(r, "seed"))
		checkJoin(t, r, s, p, load(t, r, s, p), rapid.Int64Range(1, 50).Draw(r, "rows"))

		// What a tensor becomes depends on the scheme only.
		single, err := shard.Build(s.ix, shard.Options{Scheme: o.Scheme, ChunkBytes: o.ChunkBytes})
		if err != nil {
			r.Fatalf("%v", err)
		}
		for i := range single.Tensors {
			if single.Tensors[i].Name != p.Tensors[i].Name || single.Tensors[i].Scheme != p.Tensors[i].Scheme {
				r.Fatalf("%s becomes %s, alone %s", p.Tensors[i].Name, p.Tensors[i].Scheme, single.Tensors[i].Scheme)
			}
		}
		checkJSON(r, s, o, p)
	})
	if done < refused/4 {
		t.Errorf("only %d of %d plans were not refused", done, done+refused)
	}
}

// checkJSON checks that a plan is the same each time, and after a round trip.
func checkJSON(f fataler, s *stored, o shard.Options, p *shard.Plan) {
	again, err := shard.Build(s.ix, o)
	if err != nil {
		f.Fatalf("%v", err)
	}
	b, err := p.JSON()
	if err != nil {
		f.Fatalf("%v", err)
	}
	b2, err := again.JSON()
	if err != nil || !bytes.Equal(b, b2) {
		f.Fatalf("the same input gave another plan (%v)", err)
	}
	read, err := shard.ParsePlan(b)
	if err != nil {
		f.Fatalf("%v", err)
	}
	if diff := cmp.Diff(p, read); diff != "" {
		f.Fatalf("round trip changes the plan:\n%s", diff)
	}
	if p.Digest() != read.Digest() {
		f.Fatalf("round trip changes the digest")
	}
}
