// Package exit maps errors to the exit codes that Gantry's commands promise.
package exit

import "github.com/gantry-ml/gantry/recovery"

// The exit codes, documented in docs/reference.md and `gantry help`.
const (
	Done        = 0
	Failed      = 1   // the load failed
	Usage       = 2   // the request makes no sense
	Checkpoint  = 3   // invalid or unsupported checkpoint
	Source      = 4   // source not reachable, not found or not allowed
	Capacity    = 5   // does not fit, or the device asked for is not there
	Cluster     = 6   // cluster not reachable
	Interrupted = 130 // SIGINT
)

// Code returns the exit code for err; Done for nil.
func Code(err error) int {
	if err == nil {
		return Done
	}
	return CodeOf(recovery.ClassOf(err))
}

// CodeOf returns the exit code for a failure of class c.
func CodeOf(c recovery.Class) int {
	switch c {
	case recovery.Usage:
		return Usage
	case recovery.InvalidCheckpoint, recovery.Unsupported, recovery.DigestMismatch:
		return Checkpoint
	case recovery.NotFound, recovery.NotAllowed, recovery.Unreachable:
		return Source
	case recovery.OutOfCapacity:
		return Capacity
	case recovery.ClusterLost:
		return Cluster
	case recovery.Cancelled:
		return Interrupted
	}
	return Failed
}
