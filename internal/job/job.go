package job

import (
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Kind is the kind of an emitted fact.
type Kind = progress.Kind

// Status is where a job stands.
type Status string

// The states of a job. The last three are final.
const (
	Waiting   Status = "waiting" // for workers with room
	Loading   Status = "loading"
	Sealing   Status = "sealing"
	Ready     Status = "ready"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Options is what a job depends on besides its plan.
type Options struct {
	Strategy recovery.Strategy
	// Patience is how long the job waits for room after it lost a worker,
	// before it fails with what is missing. 0 is DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is how long a job waits for a worker with room.
const DefaultPatience = 30 * time.Second

// Job is the state of one load. It is not safe for concurrent use: one actor
// or goroutine drives it.
type Job struct {
	// see New and Step
}

// New returns a job that carries out plan. Nothing is asked of anybody until
// Start.
func New(plan *shard.Plan, o Options) *Job { panic("to be written") }

// Start gives the job the workers that are there, and begins. Where they have
// no room for every rank it ends at once with class out_of_capacity.
func (j *Job) Start(now time.Time, workers []WorkerUp) []Command { panic("to be written") }

// Step applies one event and returns what must be done about it.
func (j *Job) Step(now time.Time, e Event) []Command { panic("to be written") }

// Status tells where the job stands.
func (j *Job) Status() Status { panic("to be written") }

// Counters tells how far it is.
func (j *Job) Counters() progress.Counters { panic("to be written") }

// RankStatus is one rank's place and progress.
type RankStatus struct {
	Hold       Hold
	BytesDone  int64
	BytesTotal int64
	Sealed     bool
	Digest     [16]byte // where sealed
}

// Ranks tells how far each rank is, by rank.
func (j *Job) Ranks() []RankStatus { panic("to be written") }

// Retries counts failed tries that were tried again.
func (j *Job) Retries() int { panic("to be written") }

// BytesRead counts the stored bytes that workers report to have read,
// repeated reads included.
func (j *Job) BytesRead() int64 { panic("to be written") }
