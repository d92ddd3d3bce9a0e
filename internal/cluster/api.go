package cluster

import (
	"context"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// ServiceName is what `nats micro ls` shows.
const ServiceName = "gantry"

// API is what the leader answers, one method a verb. Methods should return
// soon (a load is submitted, not waited for) and heed ctx.
type API interface {
	// Load submits a job. The same job id again returns the job there is.
	Load(context.Context, messages.LoadRequest) (messages.Job, error)
	// Swap submits a load whose model takes the place of the resident one of
	// its name when all of it is ready.
	Swap(context.Context, messages.LoadRequest) (messages.Job, error)
	// Plan returns what a load would do.
	Plan(context.Context, messages.LoadRequest) (*shard.Plan, error)
	// Status returns a job, the newest where the request names none.
	Status(context.Context, messages.JobRequest) (messages.Job, error)
	// Jobs returns all jobs, newest first.
	Jobs(context.Context) ([]messages.Job, error)
	// Cancel stops a job and frees what it placed.
	Cancel(context.Context, messages.JobRequest) (messages.Job, error)
	// Models returns the resident models, by name.
	Models(context.Context) ([]messages.Model, error)
	// Unload frees a resident model and returns what it was.
	Unload(context.Context, messages.ModelRequest) (messages.Model, error)
	// Export begins to write a resident model, or says how far that is: the
	// same export id again is the same export.
	Export(context.Context, messages.ExportRequest) (messages.Export, error)
	// Workers returns the members, by name.
	Workers(context.Context) ([]messages.Worker, error)
}

// The verbs: the last token of `gantry.v1.api.<verb>`.
const (
	verbLoad    = "load"
	verbSwap    = "swap"
	verbPlan    = "plan"
	verbStatus  = "status"
	verbJobs    = "jobs"
	verbCancel  = "cancel"
	verbModels  = "models"
	verbUnload  = "unload"
	verbExport  = "export"
	verbWorkers = "workers"
)

// nothing is the request of a verb that takes none: an empty message or {}.
type nothing struct{}

// errorReply is a refusal on the wire.
type errorReply struct {
	Error messages.Error `json:"error"`
}

// objectReply stands for a reply that is too large for a message: it lies in
// the object store gantry-plans under this digest.
type objectReply struct {
	Object string `json:"object"`
}

// objectHeader marks an objectReply, with the same digest.
const objectHeader = "gantry-object"

// codeOf is the micro service's error code of a class, after HTTP's numbers.
func codeOf(c recovery.Class) string {
	switch c {
	case recovery.Usage:
		return "400"
	case recovery.NotAllowed:
		return "403"
	case recovery.NotFound:
		return "404"
	case recovery.Stale:
		return "409"
	case recovery.InvalidCheckpoint, recovery.Unsupported, recovery.SourceChanged, recovery.OutOfCapacity:
		return "422"
	case recovery.Unavailable, recovery.Unreachable, recovery.ClusterLost, recovery.WorkerLost, recovery.DeviceBusy, recovery.Cancelled:
		return "503"
	case recovery.Timeout:
		return "504"
	}
	return "500"
}
