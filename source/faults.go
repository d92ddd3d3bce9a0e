package source

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Faults is a list of faults to inject, for tests and for the daemons'
// --inject. ParseFaults reads it from text: rules are separated by semicolons
// or line ends, # begins a comment, and a rule is
//
//	OPERATION NAME [RANGE] ACTION [after=N] [times=N]
//
//	OPERATION  open, read or list, of a source; or what is no source's:
//	           place or seal of a rank at a worker; record, the writing of
//	           a model's record, and end, that of a job's last one, at a
//	           coordinator
//	NAME       a file's name, with the wildcards of path.Match; * for list.
//	           For place, seal, record and end a job's id
//	RANGE      [start,stop) in bytes, only for read: reads that touch it
//	ACTION     fail CLASS      the error, of a class of package recovery
//	           delay DURATION  wait, then go on ("50ms")
//	           block           wait until the caller gives up
//	           corrupt         invert the bytes of RANGE, or of the whole read
//	after=N    let the first N that match pass
//	times=N    act on N only, then never again
//
// Rules act in order. The first that fails ends the operation; all others add
// up. For example:
//
//	read model-00001*.safetensors [4096,8192) fail unavailable times=2
//	read * delay 50ms
//	open model-00002-of-00003.safetensors fail not_found
//	seal nightly-* delay 2s
type Faults struct {
	rules []*rule
}

// operations are what rules can be about.
var operations = []string{"open", "read", "list", "place", "seal", "record", "end"}

type rule struct {
	text        string
	op          string // one of operations
	pattern     string
	ranged      bool
	start, stop int64
	act         string // "fail", "delay", "block" or "corrupt"
	class       recovery.Class
	delay       time.Duration
	after       int64
	times       int64 // -1 is always
	matched     atomic.Int64
	hits        atomic.Int64
}

// Hit is how often a rule acted.
type Hit struct {
	Rule string
	Hits int64
}

// Hits returns the rules and how often each acted so far.
func (f *Faults) Hits() []Hit {
	hits := make([]Hit, len(f.rules))
	for i, r := range f.rules {
		hits[i] = Hit{r.text, r.hits.Load()}
	}
	return hits
}

// ParseFaults reads rules. Errors are of class usage and quote the rule.
func ParseFaults(text string) (*Faults, error) {
	f := &Faults{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for part := range strings.SplitSeq(line, ";") {
			words := strings.Fields(part)
			if len(words) == 0 {
				continue
			}
			r, err := parseRule(words)
			if err != nil {
				return nil, err
			}
			f.rules = append(f.rules, r)
		}
	}
	return f, nil
}

func parseRule(words []string) (*rule, error) {
	r := &rule{text: strings.Join(words, " "), times: -1}
	bad := func(why string) (*rule, error) {
		return nil, recovery.Errorf(recovery.Usage, "fault rule %q: %s", r.text, why)
	}
	next := func() (w string) {
		if len(words) > 0 {
			w, words = words[0], words[1:]
		}
		return w
	}
	if r.op = next(); !slices.Contains(operations, r.op) {
		return bad("it begins with none of " + strings.Join(operations, ", "))
	}
	r.pattern = next()
	if _, err := path.Match(r.pattern, ""); err != nil || r.pattern == "" {
		return bad("its file name pattern is malformed or missing")
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "[") {
		if r.op != "read" || !r.parseRange(next()) {
			return bad("a range is written [start,stop), in bytes, start below stop, and only for read")
		}
	}
	switch r.act = next(); r.act {
	case "fail":
		if r.class = recovery.Class(next()); !known(r.class) {
			return bad("fail wants an error class, such as unavailable")
		}
	case "delay":
		d, err := time.ParseDuration(next())
		if err != nil || d < 0 {
			return bad("delay wants a duration, such as 50ms")
		}
		r.delay = d
	case "corrupt":
		if r.op != "read" {
			return bad("only a read can corrupt")
		}
	case "block":
	default:
		return bad("its action is neither fail, delay, block nor corrupt")
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil || n < 0:
			return bad("what follows the action is after=N or times=N")
		case key == "after":
			r.after = n
		case key == "times":
			r.times = n
		default:
			return bad("what follows the action is after=N or times=N")
		}
	}
	return r, nil
}

func (r *rule) parseRange(s string) bool {
	inner, ok := strings.CutSuffix(strings.TrimPrefix(s, "["), ")")
	from, to, comma := strings.Cut(inner, ",")
	var err1, err2 error
	r.start, err1 = strconv.ParseInt(from, 10, 64)
	r.stop, err2 = strconv.ParseInt(to, 10, 64)
	r.ranged = true
	return ok && comma && err1 == nil && err2 == nil && 0 <= r.start && r.start < r.stop
}

// known reports whether c is a class that an error can have.
func known(c recovery.Class) bool {
	switch c {
	case recovery.Timeout, recovery.Unavailable, recovery.Unreachable, recovery.Reset, recovery.DigestMismatch, recovery.WorkerLost,
		recovery.DeviceBusy, recovery.InvalidCheckpoint, recovery.Unsupported, recovery.SourceChanged,
		recovery.NotFound, recovery.NotAllowed, recovery.OutOfCapacity, recovery.Usage, recovery.ClusterLost,
		recovery.Stale, recovery.Cancelled, recovery.Internal:
		return true
	}
	return false
}

// acts reports whether the rule acts on this operation, and counts it.
func (r *rule) acts(op, name string, off, n int64) bool {
	if r.op != op || r.ranged && (off >= r.stop || off+n <= r.start) {
		return false
	}
	// The pattern was checked when it was parsed. A lone * is every name, in
	// folders too.
	if ok, _ := path.Match(r.pattern, name); !ok && r.pattern != "*" {
		return false
	}
	seen := r.matched.Add(1) - 1
	if seen < r.after || r.times >= 0 && seen-r.after >= r.times {
		return false
	}
	r.hits.Add(1)
	return true
}
