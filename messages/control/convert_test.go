package control

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// wire sends m over the wire and back.
func wire[M proto.Message](t *testing.T, m, back M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, back); err != nil {
		t.Fatal(err)
	}
	return back
}

func TestErrorTravels(t *testing.T) {
	at := &recovery.Error{
		Class: recovery.DigestMismatch, Op: "read", File: "model.safetensors", Tensor: "a.b",
		Offset: 10, Length: 20, Err: errors.New("xxh3 is 1, want 2"), Hint: "fetch it again",
	}
	for _, c := range []struct {
		name  string
		err   error
		class recovery.Class
	}{
		{"typed", at, recovery.DigestMismatch},
		{"wrapped", fmt.Errorf("chunk 7: %w", at), recovery.DigestMismatch},
		{"class only", &recovery.Error{Class: recovery.NotFound}, recovery.NotFound},
		{"unclassified", errors.New("boom"), recovery.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := wire(t, FromError(c.err), &Error{}).Recover()
			if recovery.ClassOf(got) != c.class {
				t.Errorf("class %q, want %q", recovery.ClassOf(got), c.class)
			}
			if c.name == "typed" && got.Error() != c.err.Error() {
				t.Errorf("text %q, want %q", got, c.err)
			}
		})
	}
	if FromError(nil) != nil || (*Error)(nil).Recover() != nil {
		t.Error("no error does not stay no error")
	}
	if n := proto.Size(FromError(errors.New(strings.Repeat("x", 1<<20)))); n > MaxBytes/8 {
		t.Errorf("an error of 1 MiB takes %d bytes on the wire", n)
	}
}

func TestHeldTravels(t *testing.T) {
	w := job.Worker{Name: "w1", Incarnation: 3}
	held := []job.Held{
		{Hold: job.Hold{Rank: 1, Generation: 4, Worker: w, Device: "cpu"}, Placed: []job.Run{{Start: 0, Stop: 900}, {Start: 901, Stop: 902}, {Start: 5000, Stop: 5007}}, Verified: true},
		{Hold: job.Hold{Rank: 3, Generation: 1, Worker: w, Device: "cpu"}, Placed: []job.Run{{Start: 7, Stop: 8}}},
		{Hold: job.Hold{Rank: 4, Generation: 1, Worker: w, Device: "cuda:0"}},
	}
	if diff := cmp.Diff(held, wire(t, &JobOpened{Held: FromHeld(held)}, &JobOpened{}).JobHeld(w)); diff != "" {
		t.Error(diff)
	}
	// Every other piece of two ranks: what does not fit is not told.
	for i := range held[:2] {
		held[i].Placed = nil
		for p := range 100_000 {
			held[i].Placed = append(held[i].Placed, job.Run{Start: 1<<21 + 2*p, Stop: 1<<21 + 2*p + 1})
		}
	}
	m := &JobOpened{Held: FromHeld(held)}
	if n := proto.Size(m); n > MaxBytes {
		t.Errorf("%d bytes on the wire", n)
	}
	if got := m.JobHeld(w); len(got) != 3 || len(got[0].Placed)+len(got[1].Placed) != maxRuns {
		t.Errorf("%d arenas are told", len(got))
	}
	// A list that breaks off is no run.
	if got := (&JobOpened{Held: []*Held{{Runs: []uint32{1, 2, 3}}}}).JobHeld(w); len(got[0].Placed) != 1 {
		t.Errorf("%v", got)
	}
}

func TestValuesTravel(t *testing.T) {
	w := job.Worker{Name: "w1", Incarnation: 3}
	ref := job.Ref{Chunk: 5, Attempt: 2, Worker: w}
	hold := job.Hold{Rank: 1, Generation: 4, Worker: w, Device: "cpu"}
	strategy := recovery.Strategy{Kind: recovery.KindRetry, Retries: 3, Backoff: recovery.Backoff{Base: time.Second, Max: time.Minute, Factor: 1.5}}
	options := shard.Options{Layout: shard.Layout{TP: 2, PP: 1, EP: 1, DP: 3}, Scheme: "q8_0", ChunkBytes: 1 << 20, KeepOriginal: true,
		Overrides: []shard.Override{{Pattern: "lm_head", Scheme: "f16"}, {Pattern: "*", Scheme: "none"}},
		Rules:     []shard.ModuleRule{{Pattern: "*.wi", Rule: shard.Colwise}, {Pattern: "emb", Rule: shard.Vocab, Place: "embedding"}}, PadVocab: 64}
	pieces := []job.PieceDone{{Rank: 2, Generation: 9, Digest: [16]byte{1, 15: 2}}}
	tally := dtype.Tally{All: dtype.NonFinite{NaN: 1, Inf: 2}, Once: dtype.NonFinite{NaN: 3, Inf: 4}}
	done, err := wire(t, &ChunkDone{Pieces: FromPieces(pieces)}, &ChunkDone{}).JobPieces()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ got, want any }{
		{wire(t, FromRef(ref), &Ref{}).Job(w), ref},
		{wire(t, FromHold(hold), &Hold{}).Job(w), hold},
		{wire(t, FromStrategy(strategy), &Strategy{}).Recovery(), strategy},
		{wire(t, FromOptions(options), &PlanOptions{}).Shard(), options},
		{done, pieces},
		{wire(t, FromTally(tally), &Tally{}).Tally(), tally},
	} {
		if d := cmp.Diff(c.want, c.got); d != "" {
			t.Error(d)
		}
	}
	if _, err := (&ChunkDone{Pieces: []*PieceDone{{Digest: []byte{1}}}}).JobPieces(); err == nil {
		t.Error("a digest of one byte is taken")
	}
}

// TestGeneratedCodeIsCurrent runs the generator over a copy.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	dir := t.TempDir()
	src, err := os.ReadFile("control.proto")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "control.proto"), src, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "run", "../internal/protogen", filepath.Join(dir, "control.proto")).CombinedOutput(); err != nil {
		t.Fatalf("protogen: %v\n%s", err, out)
	}
	want, err := os.ReadFile(filepath.Join(dir, "control.pb.go"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("control.pb.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("control.pb.go is not what control.proto gives: run `go generate ./messages/...`")
	}
}
