package progress

import "time"

// Kind names a fact about a job; it is the last token of the subject
// `gantry.v1.event.<job>.<kind>`.
type Kind string

// The kinds of event.
const (
	Submitted          Kind = "submitted"
	Planned            Kind = "planned"
	Started            Kind = "started"
	ChunkRetry         Kind = "chunk_retry"
	ChunkFailed        Kind = "chunk_failed"
	WorkerLost         Kind = "worker_lost"
	WorkerJoined       Kind = "worker_joined"
	RankSealed         Kind = "rank_sealed"
	RankMoved          Kind = "rank_moved"
	CoordinatorChanged Kind = "coordinator_changed"
	ReadyEvent         Kind = "ready"
	Failed             Kind = "failed"
	Cancelled          Kind = "cancelled"
	Swapped            Kind = "swapped"
	Unloaded           Kind = "unloaded"
)

// Event is one fact about a job, with a reason a person can read. Chunk and
// Rank are -1 where the fact is not about one.
type Event struct {
	Job    string    `json:"job"`
	Model  string    `json:"model,omitempty"`
	Kind   Kind      `json:"kind"`
	Reason string    `json:"reason"`
	Worker string    `json:"worker,omitempty"`
	Rank   int       `json:"rank"`
	Chunk  int       `json:"chunk"`
	Time   time.Time `json:"time"`
}
