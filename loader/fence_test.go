package loader

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// receiver is a node that holds one rank, and tickets for its first piece.
func receiver(t *testing.T) (*team, transfer.Ticket) {
	t.Helper()
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{ChunkBytes: 64 << 10})
	m := newTeam(t, path, plan, 1, NodeOptions{})
	p := &plan.Chunks[0].Pieces[0]
	return m, transfer.Ticket{Job: "j", Epoch: 1, Attempt: 5, Generation: 1, Bytes: p.Bytes}
}

// grant receives a ticket that must be granted.
func grant(t *testing.T, n *Node, tk transfer.Ticket) transfer.Landing {
	t.Helper()
	l, err := n.Receive(tk)
	if err != nil || l == nil {
		t.Fatalf("ticket not granted: %v, %v", l, err)
	}
	return l
}

func TestStaleTicketsAreRefused(t *testing.T) {
	m, good := receiver(t)
	n := m.nodes[0]
	for name, spoil := range map[string]func(*transfer.Ticket){
		"another job":           func(t *transfer.Ticket) { t.Job = "k" },
		"generation to come":    func(t *transfer.Ticket) { t.Generation = 2 },
		"generation gone":       func(t *transfer.Ticket) { t.Generation = 0 },
		"an old epoch":          func(t *transfer.Ticket) { t.Epoch = 0 },
		"an epoch to come":      func(t *transfer.Ticket) { t.Epoch = 2 },
		"a rank not held":       func(t *transfer.Ticket) { t.Rank = 3 },
		"an overtaken attempt":  func(t *transfer.Ticket) { t.Attempt = 4 },
		"an overtaken one, too": func(t *transfer.Ticket) { t.Attempt = 1 },
	} {
		holder := grant(t, n, good)
		tk := good
		spoil(&tk)
		if l, err := n.Receive(tk); l != nil || recovery.ClassOf(err) != recovery.Stale {
			t.Errorf("%s: %v, %v", name, l, err)
		}
		holder.Abort()
	}
	for name, spoil := range map[string]func(*transfer.Ticket){
		"a chunk that is not there": func(t *transfer.Ticket) { t.Chunk = 1 << 20 },
		"another size":              func(t *transfer.Ticket) { t.Bytes++ },
	} {
		tk := good
		spoil(&tk)
		if l, err := n.Receive(tk); l != nil || recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	// Only the coordinator begins an epoch.
	if err := n.Open(t.Context(), JobSpec{ID: "j", Epoch: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Receive(good); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("a ticket of the epoch before: %v", err)
	}
	if err := n.Open(t.Context(), JobSpec{ID: "j", Epoch: 8}); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("opened with an old epoch: %v", err)
	}
}

// A later attempt breaks an earlier one off, and gets the memory only after it
// let go.
func TestLaterAttemptRevokes(t *testing.T) {
	m, tk := receiver(t)
	n := m.nodes[0]
	first := grant(t, n, tk)
	second := make(chan transfer.Landing)
	go func() {
		later := tk
		later.Attempt++
		l, err := n.Receive(later)
		if err != nil {
			t.Error(err)
		}
		second <- l
	}()
	<-first.Context().Done()
	select {
	case <-second:
		t.Fatal("two writers of one piece")
	default:
	}
	if err := first.Commit(digestOf(first.Parts())); err == nil {
		t.Error("a revoked ticket was committed")
	}
	l := <-second
	if l.Context().Err() != nil {
		t.Error("the later attempt is revoked as well")
	}
	l.Abort()
}

// The same ticket, delivered twice, is written once; the second delivery
// waits for the first and is then discarded, or refused by its digest.
func TestDoubleDelivery(t *testing.T) {
	m, tk := receiver(t)
	n := m.nodes[0]
	first := grant(t, n, tk)
	for _, p := range first.Parts() {
		clear(p)
	}
	tk.Digest = digestOf(first.Parts())
	type answer struct {
		l   transfer.Landing
		err error
	}
	second := make(chan answer)
	go func() {
		l, err := n.Receive(tk)
		second <- answer{l, err}
	}()
	first.(*landing).ticket.Digest = tk.Digest
	if err := first.Commit(digestOf(first.Parts())); err != nil {
		t.Fatal(err)
	}
	if a := <-second; a.l != nil || a.err != nil {
		t.Errorf("second delivery: %v, %v; want to be discarded", a.l, a.err)
	}
	tk.Digest[0]++
	if l, err := n.Receive(tk); l != nil || recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("another digest: %v, %v", l, err)
	}
	// The chunk's own load finds it placed, reads nothing and reports it.
	done, read, err := n.Load(t.Context(), "j", job.Ref{Attempt: 6}, m.dests(0, 0))
	if err != nil || read != 0 || len(done) != 1 || done[0].Digest != digestOf(first.Parts()) {
		t.Errorf("load of a placed chunk: %v, %d bytes read, %v", done, read, err)
	}
}

func TestDamagedPieceIsNotPlaced(t *testing.T) {
	m, tk := receiver(t)
	l := grant(t, m.nodes[0], tk)
	if err := l.Commit(digestOf(l.Parts())); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("committed with another digest than promised: %v", err)
	}
	grant(t, m.nodes[0], tk).Abort() // it may be written again
	if _, err := m.nodes[0].Seal(t.Context(), "j", m.holds[0]); err == nil {
		t.Error("sealed with pieces missing")
	}
}

// Memory is freed only after those who write to it let go, and they are told.
func TestFreeWaitsForReceivers(t *testing.T) {
	for name, free := range map[string]func(*team) error{
		"free":  func(m *team) error { return m.nodes[0].Free("j", m.holds[0]) },
		"close": func(m *team) error { return m.nodes[0].Close("j") },
		"place": func(m *team) error {
			h := m.holds[0]
			h.Generation++
			return m.nodes[0].Place(context.Background(), "j", h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, tk := receiver(t)
			l := grant(t, m.nodes[0], tk)
			freed := make(chan error)
			go func() { freed <- free(m) }()
			<-l.Context().Done()
			select {
			case <-freed:
				t.Fatal("freed under a receiver")
			default:
			}
			for _, p := range l.Parts() {
				clear(p) // still there
			}
			if err := l.Commit(digestOf(l.Parts())); err == nil {
				t.Error("placed in memory that is going")
			}
			if err := <-freed; err != nil {
				t.Error(err)
			}
			if l, err := m.nodes[0].Receive(tk); l != nil || recovery.ClassOf(err) != recovery.Stale {
				t.Errorf("after it was freed: %v, %v", l, err)
			}
		})
	}
}

// A load that is under way when its job is closed ends and leaves nothing.
func TestCloseEndsLoads(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{ChunkBytes: 64 << 10})
	reading := make(chan struct{}, 1)
	m := newTeam(t, path, plan, 1, NodeOptions{Open: faulty(t, "read * block", reading)})
	failed := make(chan error)
	go func() {
		_, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Attempt: 1}, m.dests(0, 0))
		failed <- err
	}()
	<-reading
	if err := m.nodes[0].Close("j"); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil || recovery.ShouldRecover(err) {
		t.Errorf("load of a closed job: %v", err)
	}
	if err := m.nodes[0].Place(t.Context(), "j", m.holds[0]); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("placed for a closed job: %v", err)
	}
}

// Ranks are placed once for each generation, and never for an older one.
func TestPlaceGenerations(t *testing.T) {
	m, _ := receiver(t)
	n, h := m.nodes[0], m.holds[0]
	if err := n.Place(t.Context(), "j", h); err != nil {
		t.Errorf("placed again: %v", err)
	}
	h.Generation = 0
	if err := n.Place(t.Context(), "j", h); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("an older generation: %v", err)
	}
	h.Rank = 9
	if err := n.Place(t.Context(), "j", h); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a rank that is not there: %v", err)
	}
	if err := errors.Join(n.Free("j", h), n.Free("k", h), n.Close("k")); err != nil {
		t.Errorf("freeing what is not there: %v", err)
	}
}

// What a node holds is told in runs of each rank's own pieces, and a newer
// leader's chunks go on from there: what is placed is not read again.
func TestHeldIsWhatIsPlaced(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{Layout: shard.Layout{PP: 2}, ChunkBytes: 64 << 10})
	m := newTeam(t, path, plan, 1, NodeOptions{})
	n := m.nodes[0]
	of := make([][]int, len(plan.Ranks)) // chunks with a piece for each rank
	for i, c := range plan.Chunks {
		for _, p := range c.Pieces {
			of[p.Rank] = append(of[p.Rank], i)
		}
	}
	if len(of[0]) < 4 || len(of[1]) < 4 {
		t.Fatalf("pieces %v", of)
	}
	load := func(epoch uint64, chunk int) int64 {
		_, read, err := n.Load(t.Context(), "j", job.Ref{Chunk: chunk, Attempt: 1}, m.dests(chunk, 0))
		if err != nil {
			t.Fatalf("epoch %d, chunk %d: %v", epoch, chunk, err)
		}
		return read
	}
	loaded := map[int]bool{of[1][0]: true, of[1][1]: true, of[1][3]: true}
	for c := range loaded {
		load(1, c)
	}
	if err := n.Open(t.Context(), JobSpec{ID: "j", Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	for r, h := range n.Held("j") {
		got := map[int]bool{}
		for _, run := range h.Placed {
			for i := run.Start; i < run.Stop; i++ {
				got[of[r][i]] = true
			}
		}
		for _, c := range of[r] {
			if got[c] != loaded[c] {
				t.Errorf("rank %d, chunk %d: told %v, placed %v", r, c, got[c], loaded[c])
			}
		}
		if h.Hold != m.holds[r] || r == 1 && len(h.Placed) != 2 {
			t.Errorf("rank %d: %+v", r, h)
		}
	}
	for c := range plan.Chunks {
		if read := load(2, c); (read == 0) != loaded[c] {
			t.Errorf("chunk %d: %d bytes read, placed before: %v", c, read, loaded[c])
		}
	}
	if n.Held("no such job") != nil {
		t.Error("a job that is not open holds something")
	}
}

// What a node holds tells whether all of it was checked against the source's
// digests, wherever it was read.
func TestHeldTellsWhatWasVerified(t *testing.T) {
	for _, verified := range []bool{true, false} {
		dir := digested(t, 2)
		if !verified {
			if err := os.Remove(filepath.Join(dir, digests.Name)); err != nil {
				t.Fatal(err)
			}
		}
		_, ix := open(t, dir)
		plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 2, DP: 2}, ChunkBytes: 64 << 10})
		m := newTeam(t, dir, plan, 2, NodeOptions{})
		for c := range plan.Chunks {
			done, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Chunk: c, Attempt: 1}, m.dests(c, 0))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range done {
				if p.Verified != verified {
					t.Fatalf("chunk %d, rank %d: verified %v", c, p.Rank, p.Verified)
				}
			}
		}
		for i, n := range m.nodes {
			for _, h := range n.Held("j") {
				if len(h.Placed) != 1 || h.Verified != verified {
					t.Errorf("node %d: %+v, want verified %v", i, h, verified)
				}
			}
		}
	}
}
