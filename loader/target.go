package loader

import (
	"context"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/shard"
)

// target is the memory that one piece is written to: ranges of an arena of
// this node; or a buffer, to be sent, or copied to a device that the CPU cannot
// address. Its digest is taken while the bytes are still in the cache.
type target struct {
	dest    Dest
	piece   *shard.Piece
	mem     [][]byte    // by extent
	writer  *writer     // the right to write the piece; nil for a send buffer
	unwatch func() bool // ends the watch over the right
	copied  bool        // the piece is copied to its arena when it is done

	stored dtype.Tally // values that are not finite, in what the piece was made of

	filled []int64 // bytes written, by extent; always whole rows from its start
	hash   *xxh3.Hasher
	at     int   // extent being hashed
	hashed int64 // bytes of it that are hashed
}

func newTarget(d Dest, p *shard.Piece) *target {
	return &target{dest: d, piece: p, filled: make([]int64, len(p.Extents)), hash: xxh3.New()}
}

// own makes the target a piece of this node's arena. Where the right to write it
// is revoked, stop is called with the reason.
func (t *target) own(w *writer, stop context.CancelCauseFunc) {
	t.writer, t.mem = w, w.rank.memory(t.piece)
	t.copied = t.mem == nil
	t.unwatch = context.AfterFunc(w.ctx, func() { stop(context.Cause(w.ctx)) })
}

// disown returns the right, to be committed or aborted.
func (t *target) disown() *writer {
	w := t.writer
	t.unwatch()
	t.writer, t.unwatch = nil, nil
	return w
}

// advance hashes what is new, as far as it goes on in the piece's order: the
// scales of a segment wait until its last weight is there.
func (t *target) advance() {
	for ; t.at < len(t.mem); t.at++ {
		if n := t.filled[t.at]; n > t.hashed {
			t.hash.Write(t.mem[t.at][t.hashed:n])
			t.hashed = n
		}
		if t.hashed < int64(len(t.mem[t.at])) {
			return
		}
		t.hashed = 0
	}
}

// digest returns the piece's digest. All of it has been written.
func (t *target) digest() [16]byte {
	t.advance()
	return t.hash.Sum128().Bytes()
}

// digestOf returns the digest of a piece that lies in mem.
func digestOf(mem [][]byte) [16]byte {
	h := xxh3.New()
	for _, m := range mem {
		h.Write(m)
	}
	return h.Sum128().Bytes()
}

// split divides one buffer over the extents of a piece, in order.
func split(b []byte, p *shard.Piece) [][]byte {
	m := make([][]byte, len(p.Extents))
	for i, e := range p.Extents {
		m[i], b = b[:e.Bytes:e.Bytes], b[e.Bytes:]
	}
	return m
}
