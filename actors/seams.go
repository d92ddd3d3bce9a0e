package actors

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// Node is the data path that a worker drives: loader.Node. Its methods block
// and are called from goroutines, never from an actor's own.
type Node interface {
	Open(ctx context.Context, s loader.JobSpec) error
	Place(ctx context.Context, jobID string, h job.Hold) error
	Load(ctx context.Context, jobID string, ref job.Ref, dests []loader.Dest) ([]job.PieceDone, int64, error)
	Copy(ctx context.Context, jobID string, ref job.Ref, from job.Hold, to loader.Dest) ([]job.PieceDone, error)
	Seal(ctx context.Context, jobID string, h job.Hold) (loader.SealReport, error)
	Free(jobID string, h job.Hold) error
	Lends(jobID string) (ranks []int)
	// Held does not block.
	Held(jobID string) []job.Held
	Close(jobID string) error
	DumpRank(ctx context.Context, jobID string, rank int, path string) (digest [16]byte, err error)
	RemoveDump(path string) error
	CheckExport(ctx context.Context, jobID string, e loader.ExportSpec) error
	Export(ctx context.Context, jobID string, e loader.ExportSpec) (warnings []string, err error)
	// Staging returns how much staging memory is present, PeakStaging the most
	// that was.
	Staging() int64
	PeakStaging() int64
}

// Opener opens the checkpoint at a URI that this worker may read, for a job
// with a strategy.
type Opener func(ctx context.Context, uri string, s recovery.Strategy) (*checkpoint.Index, error)

// Plans keeps indexes by their digest, where coordinator and workers reach
// them.
type Plans interface {
	// PutIndex stores the index and returns its digest. Storing it again is
	// no error.
	PutIndex(ctx context.Context, ix *checkpoint.Index) (digest string, err error)
	// Index returns the index with the given digest.
	Index(ctx context.Context, digest string) (*checkpoint.Index, error)
}

// Store keeps what must outlive a coordinator. Writes compare and set: they
// fail with class stale where the key's revision is another, which means that
// another coordinator leads.
type Store interface {
	// PutJob writes a job's record over the given revision, 0 for a new one,
	// and returns the record's new revision.
	PutJob(ctx context.Context, j messages.Job, revision uint64) (uint64, error)
	// Jobs returns all records with their revisions.
	Jobs(ctx context.Context) ([]StoredJob, error)
	// PutModel writes a resident model over the given revision, 0 for a new
	// one, and returns its new revision.
	PutModel(ctx context.Context, m messages.Model, revision uint64) (uint64, error)
	// DeleteModel removes a model's record.
	DeleteModel(ctx context.Context, name string, revision uint64) error
	// Models returns all resident models with their revisions.
	Models(ctx context.Context) ([]StoredModel, error)
}

// StoredJob is a job's record as it lies in the store.
type StoredJob struct {
	messages.Job
	Revision uint64
}

// StoredModel is a model's record as it lies in the store.
type StoredModel struct {
	messages.Model
	Revision uint64
}

// at reports whether a worker holds a part of the model.
func (m *StoredModel) at(worker string) bool {
	return slices.ContainsFunc(m.Ranks, func(r messages.Rank) bool { return r.Worker == worker })
}

// Publisher tells the world how far jobs are. Its methods do not block.
type Publisher interface {
	Event(ctx context.Context, e progress.Event)
	Update(ctx context.Context, u progress.Update)
}

// Metrics counts what workers do. Its methods do not block.
type Metrics interface {
	// Chunk counts an attempt's end: the stored bytes that it read, how long
	// it took, tries included, and its error's class, "" where it went well.
	Chunk(ctx context.Context, bytes int64, took time.Duration, class string)
	// Retry counts a failed try that is tried again.
	Retry(ctx context.Context, class string)
	// Arena counts memory of arenas that are made (bytes above 0) and freed.
	Arena(ctx context.Context, device string, bytes int64)
	// Placed counts bytes placed in an arena, here or where they were sent.
	Placed(ctx context.Context, bytes int64)
	// JobActive counts jobs that are opened here (+1) and closed (-1).
	JobActive(ctx context.Context, delta int64)
	// Staging records how much staging memory is present.
	Staging(ctx context.Context, bytes int64)
	// Refused counts a command that was not carried out.
	Refused(ctx context.Context, class string)
}

// message is a control message: all of them have a header.
type message interface {
	proto.Message
	GetHeader() *control.Header
}
