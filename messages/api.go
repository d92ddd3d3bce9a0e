package messages

import (
	"time"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/shard"
)

// LoadRequest asks for a load (`gantry.v1.api.load`) or, without Job, Name
// and what follows, for its plan (`gantry.v1.api.plan`). The client chooses
// the job id, so that a request that is sent twice is one job.
type LoadRequest struct {
	Job      string        `json:"job,omitempty"`
	Name     string        `json:"name,omitempty"` // of the model; default: the folder's or file's
	URI      string        `json:"uri"`
	Options  shard.Options `json:"options"`
	Recovery string        `json:"recovery,omitempty"` // as recovery.Parse reads it
	Device   string        `json:"device,omitempty"`   // "auto" (default), "cpu", "cuda:0"
	// Placement says where ranks must lie; the others are placed by policy.
	Placement []placement.Pin `json:"placement,omitempty"`
	// Require is what workers must have: others are not asked.
	Require   require.Requirements `json:"require,omitzero"`
	LimitRate int64                `json:"limit_rate,omitempty"` // bytes per second, of each worker
	Validate  bool                 `json:"validate,omitempty"`   // count NaN and Inf too
	InPlace   bool                 `json:"in_place,omitempty"`   // least staging memory: quant.Config.InPlace
	Once      bool                 `json:"once,omitempty"`       // unload when it is ready
	// Replace has the model take the place of the resident one of its name, when
	// all of it is ready (`gantry.v1.api.swap`).
	Replace bool `json:"replace,omitempty"`
	// WaitSeconds is how long a load that does not fit yet, or has fewer than
	// WaitWorkers, waits for workers to join.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
	WaitWorkers int     `json:"wait_workers,omitempty"`
	// DeadlineSeconds after its submission a load that is not ready fails.
	DeadlineSeconds float64 `json:"deadline_seconds,omitempty"`
	RetryBudget     int     `json:"retry_budget,omitempty"` // failed tries at the source in all, beyond those that successes make up for; 0 is 64
}

// Wait is how long the load waits for workers.
func (q *LoadRequest) Wait() time.Duration { return seconds(q.WaitSeconds) }

// Deadline is how long after its submission the load must be ready; 0: ever.
func (q *LoadRequest) Deadline() time.Duration { return seconds(q.DeadlineSeconds) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// JobRequest names a job: status, cancel.
type JobRequest struct {
	Job    string `json:"job"`
	Reason string `json:"reason,omitempty"`
}

// ModelRequest names a resident model: unload.
type ModelRequest struct {
	Name string `json:"name"`
}

// State is a job's state as a user reads it.
type State string

// The states of a job, and that of a model which is not ready. StateReady,
// StateFailed and StateCancelled are final.
const (
	StatePlanning  State = "planning"
	StateWaiting   State = "waiting"
	StateLoading   State = "loading"
	StateSealing   State = "sealing"
	StateReady     State = "ready"
	StateFailed    State = "failed"
	StateCancelled State = "cancelled"
	// StateRepairing is a model's of which ranks were lost: they are placed anew.
	StateRepairing State = "repairing"
)

// Final reports whether no state follows.
func (s State) Final() bool {
	return s == StateReady || s == StateFailed || s == StateCancelled
}

// Job is a load, as `status` and `jobs` show it and as it lies in the bucket
// gantry-jobs. When State is final it is the load's report.
type Job struct {
	Job               string            `json:"job"`
	Model             string            `json:"model"`
	URI               string            `json:"uri"`
	Options           shard.Options     `json:"options"`
	State             State             `json:"state"`
	Stage             progress.Stage    `json:"stage"`
	Overall           float64           `json:"overall"`
	Plan              string            `json:"plan,omitempty"` // digest
	Epoch             uint64            `json:"epoch"`          // of the leader that wrote this
	Submitted         time.Time         `json:"submitted"`
	Seconds           float64           `json:"seconds"`
	Counters          progress.Counters `json:"counters"`
	BytesRead         int64             `json:"bytes_read"`
	BytesPlaced       int64             `json:"bytes_placed"`
	ReadAmplification float64           `json:"read_amplification"` // bytes read ÷ distinct tensor bytes the plan needs
	Retries           int               `json:"retries"`
	PeakStagingBytes  int64             `json:"peak_staging_bytes"` // the largest of any worker
	SourceVerified    bool              `json:"source_verified"`
	Validation        Validation        `json:"validation"`
	Ranks             []Rank            `json:"ranks"`
	Stages            []StageTime       `json:"stages"`
	Fallbacks         []shard.Note      `json:"fallbacks,omitempty"`
	Warnings          []string          `json:"warnings,omitempty"`
	Why               string            `json:"why,omitempty"`   // one line, where it failed or waits
	Class             recovery.Class    `json:"class,omitempty"` // of the failure
	// Request is what was asked for, so that another coordinator can go on.
	Request *LoadRequest `json:"request,omitempty"`
}

// Rank is one rank of a job.
type Rank struct {
	Rank       int    `json:"rank"`
	DP         int    `json:"dp"` // its position in the layout
	PP         int    `json:"pp"`
	EP         int    `json:"ep"`
	TP         int    `json:"tp"`
	Worker     string `json:"worker"`
	Device     string `json:"device"`
	Generation uint64 `json:"generation"` // of its arena: 1 for the first, one more each time the rank is placed anew
	Bytes      int64  `json:"bytes"`      // of its arena
	BytesDone  int64  `json:"bytes_done"`
	BytesTotal int64  `json:"bytes_total"`
	Digest     string `json:"digest,omitempty"` // xxh3-128, hex, when sealed
}

// StageTime is how long a stage took, and the stored bytes of the chunks whose
// read ended in it.
type StageTime struct {
	Stage     progress.Stage `json:"stage"`
	Seconds   float64        `json:"seconds"`
	BytesRead int64          `json:"bytes_read"`
}

// Validation is what was checked after placing. State is "passed", "failed",
// "skipped" (no ONNX Runtime library: Reason says so) or "" before.
type Validation struct {
	State   string           `json:"state"`
	Runtime string           `json:"runtime,omitempty"` // "onnxruntime 1.29.0"
	Reason  string           `json:"reason,omitempty"`
	Ranks   []RankValidation `json:"ranks,omitempty"`
	// NonFinite is there where the load asked for a look at every value.
	NonFinite *NonFinite `json:"non_finite,omitempty"`
}

// NonFinite counts the values that are no finite numbers, in the tensors as
// they were stored and as they are placed: in one copy of the model, and in
// all that each rank holds.
type NonFinite struct {
	Stored dtype.NonFinite `json:"stored"`
	Placed dtype.NonFinite `json:"placed"`
	Ranks  []RankNonFinite `json:"ranks"`
}

// RankNonFinite are the counts of one rank.
type RankNonFinite struct {
	Rank   int             `json:"rank"`
	Stored dtype.NonFinite `json:"stored"`
	Placed dtype.NonFinite `json:"placed"`
}

// RankValidation is the check of one rank: x·Wᵀ of one placed tensor in ONNX
// Runtime against our own arithmetic.
type RankValidation struct {
	Rank     int     `json:"rank"`
	Tensor   string  `json:"tensor"`
	Method   string  `json:"method"` // "wrapped": the arena's memory itself; "decoded": rows decoded to f32 first
	Rows     int64   `json:"rows"`
	MaxError float64 `json:"max_error"` // relative to the largest |y|
	OK       bool    `json:"ok"`
}

// Device is one device of a worker.
type Device struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Total int64  `json:"memory_total"`
	Free  int64  `json:"memory_free"` // what may still be reserved for arenas
	Ranks int    `json:"ranks"`       // at most so many; 0: as many as fit
	// Compute is a CUDA device's compute capability, such as "8.0".
	Compute string `json:"compute_capability,omitempty"`
	UUID    string `json:"uuid,omitempty"` // of a GPU
	// NUMA is the node that the device is attached to, -1 where that is not
	// known or it is host memory.
	NUMA        int      `json:"numa_node"`
	NVLinkPeers []string `json:"nvlink_peers,omitempty"` // devices of this worker
}

// Worker is a member of the cluster: the value of its lease in gantry-members.
type Worker struct {
	Name        string    `json:"name"`
	Incarnation uint64    `json:"incarnation"`
	Version     string    `json:"version"`
	Address     string    `json:"address"`  // of its actors
	Transfer    string    `json:"transfer"` // of its piece receiver
	HTTP        string    `json:"http,omitempty"`
	Staging     int64     `json:"staging"` // budget, bytes
	CPU         []string  `json:"cpu_features,omitempty"`
	Devices     []Device  `json:"devices"`
	Started     time.Time `json:"started"`
}

// Machine returns what requirements are held against.
func (w Worker) Machine() require.Machine {
	m := require.Machine{CPU: w.CPU}
	for _, d := range w.Devices {
		m.Devices = append(m.Devices, d.Required())
	}
	return m
}

// Required returns what requirements are held against.
func (d Device) Required() require.Device {
	return require.Device{ID: d.ID, Compute: d.Compute, Free: d.Free}
}

// Model is a resident model: the value in gantry-models.
type Model struct {
	Name     string    `json:"name"`
	Revision string    `json:"revision"` // digest of its plan
	Job      string    `json:"job"`
	URI      string    `json:"uri"`
	Scheme   string    `json:"scheme"`
	Bytes    int64     `json:"bytes"`
	Ranks    []Rank    `json:"ranks"`
	Since    time.Time `json:"since"`
	// State is ready, or repairing while ranks that were lost are placed anew;
	// Why says what was lost.
	State State  `json:"state"`
	Why   string `json:"why,omitempty"`
}

// Error is a refusal, as the micro service replies it: `{"error": {…}}`.
type Error struct {
	Class   recovery.Class `json:"class"`
	Message string         `json:"message"`
}

// ExportRequest asks for a resident model to be written
// (`gantry.v1.api.export`), and then, sent again, how far that is. The client
// chooses the id.
type ExportRequest struct {
	Export string `json:"export"` // id
	Name   string `json:"name"`   // of the model
	// Path is absolute and means the same to all workers that hold ranks: a
	// folder for safetensors, or a file that ends in .gguf or .safetensors.
	Path string `json:"path"`
}

// Export is how far an export is. State is loading, ready or failed.
type Export struct {
	Export   string         `json:"export"`
	Model    string         `json:"model"`
	Path     string         `json:"path"`
	State    State          `json:"state"`
	Since    time.Time      `json:"since"`
	Seconds  float64        `json:"seconds"`
	Warnings []string       `json:"warnings"` // what the files lack
	Why      string         `json:"why,omitempty"`
	Class    recovery.Class `json:"class,omitempty"`
}
