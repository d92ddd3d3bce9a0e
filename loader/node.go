package loader

import (
	"context"

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
	// Open opens a job's source; nil is source/file with its defaults.
	Open func(ctx context.Context, uri string) (source.Source, error)
	// Devices makes arenas; nil is device.NewArena.
	NewArena func(id string, bytes int64) (device.Arena, error)
}

// DefaultStaging is the default staging budget.
const DefaultStaging = 256 << 20

// Node holds the arenas of one worker and fills them. It is the
// transfer.Sink for pieces that come from other workers.
type Node struct{}

// NewNode returns a node without jobs.
func NewNode(o NodeOptions) *Node { panic("to be written") }

// JobSpec is what a node must know of a job before it works for it.
type JobSpec struct {
	ID        string
	Epoch     uint64
	URI       string
	Plan      *shard.Plan
	LimitRate int64 // bytes per second from the source; 0 is no limit
	Strategy  recovery.Strategy
	Validate  bool // look at every placed value for NaN and Inf
}

// Dest is where a piece goes: a hold, and the transfer address of its worker,
// "" where that is this node.
type Dest struct {
	Hold job.Hold
	Addr string
}

// Open makes the node ready to work for a job. Opening it again with a newer
// epoch raises the epoch.
func (n *Node) Open(ctx context.Context, s JobSpec) error { panic("to be written") }

// Place makes and prefaults the arena of a hold.
func (n *Node) Place(ctx context.Context, jobID string, h job.Hold) error { panic("to be written") }

// Load makes one try at a chunk: read it, transform it, place or send the
// piece of each dest. It returns the pieces and the stored bytes that it read
// (those also with an error). It retries nothing.
func (n *Node) Load(ctx context.Context, jobID string, ref job.Ref, dests []Dest) ([]job.PieceDone, int64, error) {
	panic("to be written")
}

// Seal checks that every piece of the hold's rank is placed, validates the
// rank and freezes it.
func (n *Node) Seal(ctx context.Context, jobID string, h job.Hold) (SealReport, error) {
	panic("to be written")
}

// Free gives a hold's arena back, after its receives have drained.
func (n *Node) Free(jobID string, h job.Hold) error { panic("to be written") }

// Close frees everything that a job holds here and closes its source.
func (n *Node) Close(jobID string) error { panic("to be written") }

// Receive implements transfer.Sink.
func (n *Node) Receive(t transfer.Ticket) (transfer.Landing, error) { panic("to be written") }

// PeakStaging returns the most staging memory that was in use at once, bytes.
func (n *Node) PeakStaging() int64 { panic("to be written") }
