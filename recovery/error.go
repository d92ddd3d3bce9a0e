package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Class says what kind of failure an error is. Strategies, exit codes and
// messages between processes go by it.
type Class string

// The classes. The first group is worth another try, the second is not.
const (
	Timeout        Class = "timeout"         // no answer in time
	Unavailable    Class = "unavailable"     // I/O error of a device, something that may come back
	Unreachable    Class = "unreachable"     // a source's server is not there, or cannot serve (5xx, 429)
	Reset          Class = "reset"           // connection or stream broken off
	DigestMismatch Class = "digest_mismatch" // bytes differ from what was promised
	WorkerLost     Class = "worker_lost"     // the worker that held or sent it is gone
	DeviceBusy     Class = "device_busy"     // the device refused for now

	InvalidCheckpoint Class = "invalid_checkpoint" // malformed, truncated, contradictory
	Unsupported       Class = "unsupported"        // well-formed, but not something Gantry handles
	SourceChanged     Class = "source_changed"     // the file is not the one that was planned
	NotFound          Class = "not_found"          // no such source or file
	NotAllowed        Class = "not_allowed"        // 401, 403, outside the allowed roots
	OutOfCapacity     Class = "out_of_capacity"    // does not fit, or the device asked for is not there
	Usage             Class = "usage"              // the request makes no sense
	ClusterLost       Class = "cluster_lost"       // the cluster itself is not reachable
	Stale             Class = "stale"              // fenced: an old epoch, incarnation, attempt or ticket
	Cancelled         Class = "cancelled"          // somebody asked for it to stop
	Internal          Class = "internal"           // a bug, or nobody classified it
)

// Error is a failure with its class and the place it happened. Only Class and
// Err are required. Its text is one line: what, where, why, what to do.
type Error struct {
	Class  Class
	Op     string // what was being done: "read", "open", "validate"
	File   string // checkpoint file or URI
	Tensor string // tensor name
	Offset int64  // byte range in File; Length 0 means no range
	Length int64
	Err    error  // why
	Hint   string // what to do, if there is anything
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(" ")
	}
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(" ")
	}
	if e.Tensor != "" {
		fmt.Fprintf(&b, "tensor %.200q ", e.Tensor) // a name is data, of any length
	}
	if e.Length > 0 {
		fmt.Fprintf(&b, "bytes [%d, %d) ", e.Offset, e.Offset+e.Length)
	}
	s := strings.TrimSuffix(b.String(), " ")
	why := string(e.Class)
	if e.Err != nil {
		why = e.Err.Error()
	}
	if s != "" {
		s += ": "
	}
	s += why
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of the given class with a formatted cause.
func Errorf(c Class, format string, args ...any) *Error {
	return &Error{Class: c, Err: fmt.Errorf(format, args...)}
}

// ClassOf returns the class of the outermost Error in err's chain. Context
// errors are Cancelled and Timeout; what nobody classified is Internal; nil
// has no class.
func ClassOf(err error) Class {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Class
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Internal
}

// Recoverable reports whether the same thing, tried again, may succeed.
func (c Class) Recoverable() bool {
	switch c {
	case Timeout, Unavailable, Unreachable, Reset, DigestMismatch, WorkerLost, DeviceBusy:
		return true
	}
	return false
}

// ShouldRecover reports whether err is of a recoverable class.
func ShouldRecover(err error) bool { return ClassOf(err).Recoverable() }
