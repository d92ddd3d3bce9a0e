package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// NodeOptions configures the data path of a worker. The zero value works.
type NodeOptions struct {
	Staging  int64           // budget for staging memory, bytes; 0 is DefaultStaging
	Parallel int             // chunks transformed at once; 0 is GOMAXPROCS
	Sender   transfer.Sender // to other workers; nil where there are none
	// Open opens the source of a job with a strategy; nil is source.Open with
	// its defaults.
	Open func(ctx context.Context, uri string, s recovery.Strategy) (source.Source, error)
	// ExportRoots are folders that models may be written to; without any none
	// is written.
	ExportRoots []string
	// Mlock keeps arenas from being swapped out (device.Lock).
	Mlock bool
	// NewArena makes arenas; nil is device.NewArena.
	NewArena func(id string, bytes int64) (device.Arena, error)
	// Pin makes host memory that a device copies from; nil is device.Pin.
	Pin func(id string, bytes int64) (memory []byte, free func() error, err error)
}

// linksAtOnce is how many chunks of remote sources are worked on at once: they
// wait for the network more than for a core, and each request a round trip.
const linksAtOnce = 16

// DefaultStaging is the default staging budget.
const DefaultStaging = 256 << 20

// overhead bounds what a load takes of the host's memory besides arenas and
// staging.
const overhead = 96 << 20

// Headroom is what arenas must leave free of the host's memory where the
// budget for staging memory is staging, 0 for the default.
func Headroom(staging int64) int64 { return cmp.Or(staging, DefaultStaging) + overhead }

// Node holds the arenas of one worker and fills them. It is the
// transfer.Sink for pieces that come from other workers. Its methods may be
// called from several goroutines.
type Node struct {
	opts    NodeOptions
	staging *staging
	local   lane // of chunks that lie in files here
	remote  lane // of chunks that come from elsewhere

	mu   sync.Mutex
	jobs map[string]*nodeJob
}

// NewNode returns a node without jobs.
func NewNode(o NodeOptions) *Node {
	if o.Staging <= 0 {
		o.Staging = DefaultStaging
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Open == nil {
		o.Open = func(ctx context.Context, uri string, s recovery.Strategy) (source.Source, error) {
			return source.Open(ctx, uri, source.Options{Retry: source.RetryFor(s)})
		}
	}
	if o.NewArena == nil {
		o.NewArena = device.NewArena
	}
	if o.Pin == nil {
		o.Pin = device.Pin
	}
	return &Node{opts: o, staging: newStaging(o.Staging), local: newLane(o.Parallel),
		remote: newLane(max(o.Parallel, linksAtOnce)), jobs: map[string]*nodeJob{}}
}

// lane bounds what is under way at once, and shares it among jobs.
type lane struct {
	slots  *turns // of chunks that are read and transformed
	outbox *turns // of those with pieces to send, until they are sent
}

// outboxes is how many chunks wait for their pieces to be sent, for each that
// is transformed at once. More would only pile up: in memory that has left the
// cache, or was never there.
const outboxes = 2

func newLane(chunks int) lane {
	return lane{newTurns(chunks), newTurns(outboxes * chunks)}
}

// JobSpec is what a node must know of a job before it works for it.
type JobSpec struct {
	ID        string
	Epoch     uint64
	URI       string
	Plan      *shard.Plan
	LimitRate int64 // bytes per second from the source; 0 is no limit
	Strategy  recovery.Strategy
	Validate  bool // count NaN and Inf in what is stored and in what is placed
	InPlace   bool // least staging memory: see quant.Config
}

// Dest is where a piece goes: a hold, and the transfer address of its worker,
// "" where that is this node.
type Dest struct {
	Hold job.Hold
	Addr string
}

// Open makes the node ready to work for a job. Opening it again with a newer
// epoch raises the epoch; with an older one it fails with class stale.
func (n *Node) Open(ctx context.Context, s JobSpec) error {
	if j, err := n.job(s.ID); err == nil {
		defer j.leave()
		return j.raise(s.Epoch)
	}
	j, err := newNodeJob(ctx, s, n.opts.Open)
	if err != nil {
		return err
	}
	j.lane = n.local
	if source.Remote(j.src.URI()) {
		j.lane = n.remote
	}
	n.mu.Lock()
	other := n.jobs[s.ID]
	if other == nil {
		n.jobs[s.ID] = j
	}
	n.mu.Unlock()
	if other != nil { // opened twice at once
		if err := j.close(); err != nil {
			return err
		}
		return other.raise(s.Epoch)
	}
	return nil
}

// Place makes and prefaults the arena of a hold, and the staging memory that
// loading is likely to use, unless the job wants as little as can be. For a hold that is there already it does nothing;
// an older generation of the rank is freed first.
func (n *Node) Place(ctx context.Context, jobID string, h job.Hold) error {
	j, err := n.job(jobID)
	if err != nil {
		return err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)
	if !j.spec.InPlace {
		if err := n.staging.prefault(n.likely(j.spec.Plan)); err != nil {
			return err
		}
	}
	if h.Device != device.CPU {
		pin := func(bytes int64) ([]byte, func() error, error) { return n.opts.Pin(h.Device, bytes) }
		if err := n.staging.usePinned(ctx, pin, largestPiece(j.spec.Plan, h.Rank)); err != nil {
			return err
		}
	}
	return j.place(ctx, h, n.opts)
}

// largestPiece returns the bytes of the rank's largest piece.
func largestPiece(p *shard.Plan, rank int) (most int64) {
	for i := range p.Chunks {
		if piece, err := piece(p, i, rank); err == nil {
			most = max(most, piece.Bytes)
		}
	}
	return most
}

// likely is how much staging memory a load will use at the least: what each
// chunk in work is encoded into, and the pieces that wait to be sent.
func (n *Node) likely(p *shard.Plan) int64 {
	var sent int64
	for i := range p.Chunks {
		if n.opts.Sender == nil || len(p.Ranks) == 1 {
			break // nothing is sent
		}
		var all int64
		for _, piece := range p.Chunks[i].Pieces {
			all += piece.Bytes
		}
		sent = max(sent, all)
	}
	return int64(n.opts.Parallel) * (min(scratchBytes, p.PlacedBytes) + outboxes*sent)
}

// Free gives a hold's arena back, after its receives have drained. A hold
// that is not there is no error.
func (n *Node) Free(jobID string, h job.Hold) error {
	j, err := n.job(jobID)
	if err != nil {
		return nil
	}
	defer j.leave()
	return j.free(h)
}

// Held lists the arenas that are there for a job and which of their pieces are
// placed, for a leader that goes on where another was.
func (n *Node) Held(jobID string) []job.Held {
	j, err := n.job(jobID)
	if err != nil {
		return nil
	}
	defer j.leave()
	return j.held()
}

// Take hands the arena of a sealed hold to the caller, who closes it. The
// node forgets the rank.
func (n *Node) Take(jobID string, h job.Hold) (device.Arena, error) {
	j, err := n.job(jobID)
	if err != nil {
		return nil, err
	}
	defer j.leave()
	return j.take(h)
}

// Close frees everything that a job holds here and closes its source. Loads
// under way end first, with class cancelled. A job that is not there is no
// error.
func (n *Node) Close(jobID string) error {
	n.mu.Lock()
	j := n.jobs[jobID]
	delete(n.jobs, jobID)
	last := len(n.jobs) == 0
	n.mu.Unlock()
	if j == nil {
		return nil
	}
	err := j.close()
	if last {
		err = errors.Join(err, n.staging.close())
	}
	return err
}

// Staging returns how much staging memory is present, bytes.
func (n *Node) Staging() int64 { return n.staging.presentBytes() }

// PeakStaging returns the most staging memory that was in use at once, bytes.
func (n *Node) PeakStaging() int64 { return n.staging.peakBytes() }

// job returns an open job, entered: the caller leaves it.
func (n *Node) job(id string) (*nodeJob, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	j := n.jobs[id]
	if j == nil || !j.enter() {
		return nil, &recovery.Error{Class: recovery.Stale, Op: "load", Err: fmt.Errorf("job %q is not open on this worker", id)}
	}
	return j, nil
}
