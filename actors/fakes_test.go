package actors

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/source"
)

// TestMain fails where a test leaves a goroutine behind, other than those of
// protoactor's dead letters, which end by themselves within a second.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewThrottle.func1.1"),
		goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"),
	)
}

// fakeNode is a node that holds nothing and does as it is told.
type fakeNode struct {
	load func(ctx context.Context, ref job.Ref) error // nil: succeeds
	dump func(ctx context.Context) error              // nil: succeeds
	seal func() error                                 // nil: succeeds
	held chan struct{}                                // where set, Close waits until it is closed

	mu     sync.Mutex
	loads  map[int]int // tries, by chunk
	open   map[string]uint64
	holds  map[job.Hold]bool
	sealed map[job.Hold]bool // also those that are freed
	freed  int

	dumped    []string // paths of dumps that are there
	exported  []loader.ExportSpec
	exportErr error
	checkErr  error
	removed   []string // dumps that were to be removed
}

func (n *fakeNode) Open(_ context.Context, s loader.JobSpec) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[s.ID] = s.Epoch
	return nil
}

func (n *fakeNode) Place(_ context.Context, _ string, h job.Hold) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holds[h] = true
	return nil
}

func (n *fakeNode) Load(ctx context.Context, _ string, ref job.Ref, dests []loader.Dest) ([]job.PieceDone, int64, error) {
	n.mu.Lock()
	n.loads[ref.Chunk]++
	n.mu.Unlock()
	if n.load != nil {
		if err := n.load(ctx, ref); err != nil {
			return nil, 1, err
		}
	}
	var out []job.PieceDone
	for _, d := range dests {
		out = append(out, job.PieceDone{Rank: d.Hold.Rank, Generation: d.Hold.Generation, Digest: [16]byte{byte(ref.Chunk)}})
	}
	return out, 10, nil
}

func (n *fakeNode) Copy(ctx context.Context, id string, ref job.Ref, _ job.Hold, to loader.Dest) ([]job.PieceDone, error) {
	pieces, _, err := n.Load(ctx, id, ref, []loader.Dest{to})
	return pieces, err
}

func (n *fakeNode) Seal(_ context.Context, _ string, h job.Hold) (loader.SealReport, error) {
	if n.seal != nil {
		if err := n.seal(); err != nil {
			return loader.SealReport{}, err
		}
	}
	n.mu.Lock()
	n.sealed[h] = true
	n.mu.Unlock()
	return loader.SealReport{Digest: [16]byte{1}, Validation: loader.Validation{Reason: "no library"}}, nil
}

func (n *fakeNode) Free(_ string, h job.Hold) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.holds, h)
	n.freed++
	return nil
}

func (n *fakeNode) Close(id string) error {
	if n.held != nil {
		<-n.held
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, id)
	clear(n.holds)
	return nil
}

// Held says that what was sealed is whole.
func (n *fakeNode) Held(string) (all []job.Held) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.holds {
		if n.sealed[h] {
			all = append(all, job.Held{Hold: h, Placed: []job.Run{{Stop: 1 << 30}}})
		}
	}
	return all
}

func (n *fakeNode) Lends(string) []int { return nil }

func (n *fakeNode) Staging() int64 { return 21 }

func (n *fakeNode) PeakStaging() int64 { return 42 }

func (n *fakeNode) DumpRank(ctx context.Context, _ string, rank int, path string) ([16]byte, error) {
	if n.dump != nil {
		if err := n.dump(ctx); err != nil {
			return [16]byte{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dumped = append(n.dumped, path)
	return [16]byte{byte(rank) + 1}, nil
}

func (n *fakeNode) RemoveDump(path string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = append(n.removed, path)
	n.dumped = slices.DeleteFunc(n.dumped, func(p string) bool { return p == path })
	return nil
}

func (n *fakeNode) CheckExport(context.Context, string, loader.ExportSpec) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checkErr
}

func (n *fakeNode) Export(_ context.Context, _ string, e loader.ExportSpec) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.exported = append(n.exported, e)
	return []string{"no tokenizer"}, n.exportErr
}

// dumps lists the dumps that are there.
func (n *fakeNode) dumps() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dumped)
}

func (n *fakeNode) tries(chunk int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loads[chunk]
}

func (n *fakeNode) empty() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.open) == 0 && len(n.holds) == 0
}

// testIndex is a checkpoint of n tensors of 64 KiB each.
func testIndex(n int) *checkpoint.Index {
	ix := &checkpoint.Index{Format: "safetensors", Files: []source.File{{Name: "m.safetensors", Size: int64(65536 * n), ID: "1"}}}
	for i := range n {
		ix.Tensors = append(ix.Tensors, checkpoint.Tensor{
			Name: fmt.Sprintf("t%03d.weight", i), DType: dtype.F32, Shape: []int64{128, 128}, Offset: int64(65536 * i), Bytes: 65536,
		})
	}
	return ix
}

// world is a coordinator and workers in one process.
type world struct {
	t       testing.TB
	system  *System
	mem     *memory
	co      *Coordinator
	workers []*Worker
	nodes   []*fakeNode
	members []messages.Worker
	opening func() // where set, called by workers that open a checkpoint
	openErr error
	tensors int
	needs   require.Requirements // of the model
	repair  time.Duration        // RepairWait of coordinators
}

// newWorld starts a coordinator with n workers.
func newWorld(t testing.TB, n int) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		// Not t.Output(): protoactor's count of dead letters may come after the test.
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	system, err := NewSystem(SystemOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, system: system, mem: newMemory(), tensors: 20}
	for i := range n {
		node := &fakeNode{loads: map[int]int{}, open: map[string]uint64{}, holds: map[job.Hold]bool{}, sealed: map[job.Hold]bool{}}
		m := messages.Worker{
			Name: fmt.Sprintf("w%d", i), Incarnation: 1, Address: system.Address(), Staging: 1 << 20,
			Devices: []messages.Device{{ID: "cpu", Total: 4 << 30, Free: 4 << 30}}, CPU: []string{fmt.Sprintf("unit%d", i)},
		}
		worker, err := system.StartWorker(WorkerOptions{
			Member: m, Node: node, Plans: w.mem, Log: log,
			Open: func(context.Context, string, recovery.Strategy) (*checkpoint.Index, error) {
				if w.opening != nil {
					w.opening()
				}
				ix := testIndex(w.tensors)
				ix.Require = w.needs
				return ix, w.openErr
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.workers, w.nodes, w.members = append(w.workers, worker), append(w.nodes, node), append(w.members, m)
	}
	w.start(1, log, w.members...)
	t.Cleanup(func() {
		if err := w.co.Stop(); err != nil {
			t.Error(err)
		}
		for _, worker := range w.workers {
			if err := worker.Stop(); err != nil {
				t.Error(err)
			}
		}
		system.Close()
	})
	return w
}

// start starts the coordinator of an epoch, to which members are known.
func (w *world) start(epoch uint64, log *slog.Logger, members ...messages.Worker) {
	co, err := w.system.StartCoordinator(w.t.Context(), CoordinatorOptions{
		Name: "c", Epoch: epoch, Store: w.mem, Plans: w.mem, Publish: w.mem, Patience: 5 * time.Second, RepairWait: w.repair, Log: log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.co = co
	for _, m := range members {
		co.MemberUp(m)
	}
	w.until("all workers are within reach", func() bool {
		all, err := ask[bool](w.t.Context(), co, func(a *coordinator, _ actor.Context) (any, error) {
			for _, m := range a.members {
				if !m.up {
					return false, nil
				}
			}
			return len(a.members) == len(members), nil
		})
		return err == nil && all
	})
}

// load submits a load and waits for its end.
func (w *world) load(q messages.LoadRequest) messages.Job {
	w.t.Helper()
	j, err := w.co.Load(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.wait(j.Job)
}

// wait waits until a job has ended.
func (w *world) wait(id string) (j messages.Job) {
	w.t.Helper()
	w.until("job "+id+" ends", func() bool {
		var err error
		if j, err = w.co.Status(w.t.Context(), messages.JobRequest{Job: id}); err != nil {
			w.t.Fatal(err)
		}
		return j.State.Final()
	})
	return j
}

// until polls for a state.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// request is a load of 20 tensors, one a chunk.
func request(id string) messages.LoadRequest {
	q := messages.LoadRequest{Job: id, Name: "m-" + id, URI: "file:///m.safetensors"}
	q.Options.ChunkBytes = 65536
	return q
}
