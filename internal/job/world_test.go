package job

import (
	"fmt"
	"time"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// planOf makes a plan of n chunks of 100 stored bytes over ranks; to says
// which ranks get a piece (half the bytes each) of a chunk.
func planOf(ranks, n int, to func(c int) []int) *shard.Plan {
	p := &shard.Plan{Version: shard.Version}
	for r := range ranks {
		p.Ranks = append(p.Ranks, shard.Rank{Rank: r, ArenaBytes: 1000})
	}
	for c := range n {
		ch := shard.Chunk{ID: c, Offset: int64(100 * c), Bytes: 100}
		for _, r := range to(c) {
			ch.Pieces = append(ch.Pieces, shard.Piece{Rank: r, Bytes: 50})
		}
		p.Chunks = append(p.Chunks, ch)
	}
	return p
}

// readTwice makes the chunks of a plan those of two tensors, in turn, that are
// read twice, and that every rank holds.
func readTwice(p *shard.Plan) *shard.Plan {
	p.Options.ChunkBytes = 100
	for i := range 2 {
		p.Tensors = append(p.Tensors, shard.Tensor{Bytes: 1000, Layout: quant.Layout{Scope: quant.Tensor}})
		for r := range p.Ranks {
			p.Ranks[r].Slices = append(p.Ranks[r].Slices, shard.Slice{Tensor: i})
		}
	}
	for c := range p.Chunks {
		p.Chunks[c].Segments = []shard.Segment{{Tensor: c % 2}}
	}
	return p
}

// copies makes the last ranks of a plan copies of the first, with the same
// pieces.
func copies(p *shard.Plan, dp int) *shard.Plan {
	p.Options.Layout.DP = dp
	each := len(p.Ranks)
	for r := each; r < each*dp; r++ {
		p.Ranks = append(p.Ranks, shard.Rank{Rank: r, DP: r / each, ArenaBytes: p.Ranks[r%each].ArenaBytes, Slices: p.Ranks[r%each].Slices})
	}
	for i := range p.Chunks {
		ch := &p.Chunks[i]
		once := len(ch.Pieces)
		for r := once; r < once*dp; r++ {
			piece := ch.Pieces[r%once]
			piece.Rank += r / once * each
			ch.Pieces = append(ch.Pieces, piece)
		}
	}
	return p
}

func everyone(ranks int) func(int) []int {
	return func(int) []int {
		all := make([]int, ranks)
		for i := range all {
			all[i] = i
		}
		return all
	}
}

func inTurn(ranks int) func(int) []int { return func(c int) []int { return []int{c % ranks} } }

func cpu(name string, incarnation uint64, room int64) WorkerUp {
	return WorkerUp{Worker: Worker{name, incarnation}, Rooms: []Room{{Device: "cpu", Bytes: room}}, Window: 300}
}

// digestOf is what a chunk's pieces hash to in these tests: the same for all
// ranks, since some are copies.
func digestOf(chunk int) [16]byte {
	return [16]byte{byte(chunk), byte(chunk >> 8), 1}
}

// checked says whether a chunk's bytes are checked against the source's
// digests in these tests: all but those of one chunk.
func checked(chunk int) bool { return chunk != 3 }

func done(l Load) ChunkDone {
	d := ChunkDone{Ref: l.Ref, BytesRead: 100}
	if l.From != nil {
		d.BytesRead = 0
	}
	for _, h := range l.Dests {
		d.Pieces = append(d.Pieces, PieceDone{Rank: h.Rank, Generation: h.Generation, Digest: digestOf(l.Ref.Chunk), Verified: checked(l.Ref.Chunk)})
	}
	return d
}

// all returns the commands of one type.
func all[T Command](cmds []Command) []T {
	var found []T
	for _, c := range cmds {
		if t, ok := c.(T); ok {
			found = append(found, t)
		}
	}
	return found
}

// obey answers commands as a perfect world would, until nothing is left to do
// or stop says so. It returns every command seen.
func obey(j *Job, now time.Time, cmds []Command, stop func(Command) bool) []Command {
	var seen []Command
	for len(cmds) > 0 {
		c := cmds[0]
		cmds = cmds[1:]
		seen = append(seen, c)
		if stop != nil && stop(c) {
			continue
		}
		var events []Event
		switch c := c.(type) {
		case Place:
			events = append(events, Placed{c.Hold})
		case Load:
			events = append(events, Accepted{c.Ref}, done(c))
		case Seal:
			events = append(events, Sealed{c.Hold, [16]byte{byte(c.Hold.Rank)}})
		}
		for _, e := range events {
			cmds = append(cmds, j.Step(now, e)...)
		}
	}
	return seen
}

func kinds(cmds []Command) (s []string) {
	for _, e := range all[Emit](cmds) {
		s = append(s, fmt.Sprintf("%s/%s/%d/%d", e.Kind, e.Worker, e.Rank, e.Chunk))
	}
	return s
}
