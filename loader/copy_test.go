package loader

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// replicas is a team of nodes that hold two copies of a model, of two ranks
// each: two nodes hold both copies of a rank, three hold them apart. Chunk 0
// is placed in the first copy.
func replicas(t *testing.T, nodes int, o NodeOptions) *team {
	t.Helper()
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{ChunkBytes: 64 << 10, Scheme: "q8_0", Layout: shard.Layout{TP: 2, DP: 2}})
	m := newTeam(t, path, plan, nodes, o)
	m.first(0)
	return m
}

// first places the pieces of a chunk in the first copy.
func (m *team) first(chunk int) {
	m.t.Helper()
	dests := m.dests(chunk, 0)
	if _, _, err := m.nodes[0].Load(m.t.Context(), "j", job.Ref{Chunk: chunk, Attempt: 1}, dests[:len(dests)/2]); err != nil {
		m.t.Fatal(err)
	}
}

// copy copies a piece from one rank to another, as the machine would ask.
func (m *team) copy(chunk, from, to int, attempt uint64) ([]job.PieceDone, error) {
	d := Dest{Hold: m.holds[to]}
	if m.owner(to) != m.owner(from) {
		d.Addr = m.addrs[to%len(m.nodes)]
	}
	return m.owner(from).Copy(m.t.Context(), "j", job.Ref{Chunk: chunk, Attempt: attempt}, m.holds[from], d)
}

// A replica that is filled by copies alone seals with the same digest, with
// what was counted in the source, and no byte is read for it.
func TestReplicaIsFilledByCopies(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		m := replicas(t, nodes, NodeOptions{})
		for i := range m.plan.Chunks {
			m.first(i)
			for _, p := range m.plan.Chunks[i].Pieces {
				if p.Rank < 2 {
					continue
				}
				done, err := m.copy(i, p.Rank-2, p.Rank, 2)
				if err != nil || len(done) != 1 || done[0].Rank != p.Rank {
					t.Fatalf("chunk %d of rank %d: %v, %v", i, p.Rank, done, err)
				}
			}
		}
		var seals []SealReport
		for r, h := range m.holds {
			s, err := m.owner(r).Seal(t.Context(), "j", h)
			if err != nil {
				t.Fatal(err)
			}
			seals = append(seals, s)
		}
		for r := range 2 {
			if a, b := seals[r], seals[r+2]; a.Digest != b.Digest || a.Validation.Stored != b.Validation.Stored || !b.Validation.Counted {
				t.Errorf("rank %d: %+v, its copy %+v", r, a, b)
			}
		}
	}
}

// What is not placed is not served, nor by a rank with other bytes, nor from
// an arena that is gone.
func TestCopiesThatAreRefused(t *testing.T) {
	m := replicas(t, 3, NodeOptions{})
	later := 1
	for ; m.plan.Chunks[later].Pieces[0].Rank != 0; later++ {
	}
	for name, c := range map[string]struct {
		chunk, from, to int
		class           recovery.Class
	}{
		"not placed":       {later, 0, 2, recovery.Stale},
		"no replica":       {0, 0, 3, recovery.Usage},
		"no such chunk":    {1 << 20, 0, 2, recovery.Usage},
		"nothing in it":    {0, 2, 0, recovery.Stale},
		"placed in itself": {0, 0, 0, ""},
	} {
		if _, err := m.copy(c.chunk, c.from, c.to, 2); recovery.ClassOf(err) != c.class {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.owner(2).Free("j", m.holds[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := m.copy(0, 0, 2, 3); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("into an arena that was freed: %v", err)
	}
	if err := m.owner(0).Free("j", m.holds[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := m.copy(0, 0, 2, 4); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("from an arena that was freed: %v", err)
	}
}

// A bit that flips in the giver's memory is found by who gets it, and nothing
// is placed.
func TestCopyOfDamagedMemory(t *testing.T) {
	m := replicas(t, 3, NodeOptions{})
	p, err := piece(m.plan, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	rank := m.nodes[0].jobs["j"].ranks[0]
	rank.memory(p)[0][0] ^= 4
	if _, err := m.copy(0, 0, 2, 2); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("copied with a flipped bit: %v", err)
	}
	rank.memory(p)[0][0] ^= 4
	if _, err := m.copy(0, 0, 2, 3); err != nil {
		t.Error(err)
	}
}

// hung is a sender that never gets an answer for pieces of the second copy.
type hung struct {
	transfer.Sender
	began chan struct{}
}

func (h hung) Send(ctx context.Context, addr string, t transfer.Ticket, parts [][]byte) error {
	if t.Rank < 2 {
		return h.Sender.Send(ctx, addr, t, parts)
	}
	close(h.began)
	<-ctx.Done()
	return context.Cause(ctx)
}

// An arena that is being sent from is freed when the send has ended, and ends
// it.
func TestFreeEndsCopies(t *testing.T) {
	m := replicas(t, 3, NodeOptions{})
	began, n := make(chan struct{}), m.owner(0)
	n.opts.Sender = hung{n.opts.Sender, began}
	got := make(chan error)
	go func() {
		_, err := m.copy(0, 0, 2, 2)
		got <- err
	}()
	<-began
	if err := m.owner(0).Free("j", m.holds[0]); err != nil {
		t.Error(err)
	}
	if err := <-got; recovery.ClassOf(err) != recovery.Stale {
		t.Error(err)
	}
}

// A node lends the sealed arenas of one job to another whose ranks hold the
// same bytes, whatever its chunks and copies, until the first is closed.
func TestLends(t *testing.T) {
	m := replicas(t, 1, NodeOptions{})
	n := m.nodes[0]
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	again := func(id string, o shard.Options, validate bool) *shard.Plan {
		t.Helper()
		plan := build(t, ix, o)
		if err := n.Open(t.Context(), JobSpec{ID: id, Epoch: 1, URI: path, Plan: plan, Validate: validate}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(id) })
		return plan
	}
	same := shard.Options{ChunkBytes: 256 << 10, Scheme: "q8_0", Layout: shard.Layout{TP: 2}}
	plan := again("same", same, false)
	again("validated", same, true)
	again("other", shard.Options{Scheme: "f16", Layout: shard.Layout{TP: 2}}, false)
	if got := n.Lends("same"); len(got) != 0 {
		t.Errorf("lends %v before anything is sealed", got)
	}
	seals := m.load(t.Context())
	for id, want := range map[string][]int{"same": {0, 1}, "validated": nil, "other": nil, "j": nil, "none": nil} {
		if got := n.Lends(id); !slices.Equal(got, want) {
			t.Errorf("lends %v to %s, want %v", got, id, want)
		}
	}
	lend := func(chunk int, to job.Hold) error {
		_, err := n.Copy(t.Context(), "same", job.Ref{Chunk: chunk, Attempt: 1}, job.Hold{Rank: to.Rank}, Dest{Hold: to})
		return err
	}
	for r := range 2 {
		h := job.Hold{Rank: r, Generation: 1, Device: "cpu"}
		if err := n.Place(t.Context(), "same", h); err != nil {
			t.Fatal(err)
		}
		for i := range plan.Chunks {
			if _, err := piece(plan, i, r); err != nil {
				continue
			}
			if err := lend(i, h); err != nil {
				t.Fatalf("chunk %d of rank %d: %v", i, r, err)
			}
		}
		if _, err := n.Seal(t.Context(), "same", h); err != nil {
			t.Error(err)
		}
		if a, b := n.jobs["j"].ranks[r].arena.Host(), n.jobs["same"].ranks[r].arena.Host(); !bytes.Equal(a, b) {
			t.Errorf("rank %d (%x): its copy differs", r, seals[r].Digest)
		}
	}
	again("late", same, false)
	for _, id := range []string{"j", "same"} {
		if err := n.Close(id); err != nil {
			t.Fatal(err)
		}
	}
	h := job.Hold{Rank: 0, Generation: 1, Device: "cpu"}
	if err := n.Place(t.Context(), "late", h); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Copy(t.Context(), "late", job.Ref{Attempt: 1}, job.Hold{Rank: 0}, Dest{Hold: h}); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("lent by a job that is closed: %v", err)
	}
}
