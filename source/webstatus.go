package source

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// statusError is an answer that is not what was asked for.
type statusError struct {
	status int
	after  time.Duration
}

func (e statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status)))
}

// RetryAfter is how long the server wants to be left alone; 0 is unsaid.
func (e statusError) RetryAfter() time.Duration { return e.after }

// refusal is the error of an answer of neither 200 nor 206.
func (a *answer) refusal() error {
	e := &recovery.Error{Class: recovery.Unsupported, Op: "read", Err: statusError{a.StatusCode, parseRetryAfter(a.Header.Get("Retry-After"), time.Now())}}
	switch s := a.StatusCode; {
	case recoverable(s):
		e.Class = recovery.Unreachable
	case s == http.StatusNotFound, s == http.StatusGone:
		e.Class, e.Hint = recovery.NotFound, "check the URI"
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusProxyAuthRequired:
		e.Class, e.Hint = recovery.NotAllowed, a.web.deniedBy
	case s == http.StatusRequestedRangeNotSatisfiable, s == http.StatusPreconditionFailed:
		e.Class, e.Hint = recovery.SourceChanged, "load again once nobody writes it"
	}
	return e
}

// parseRetryAfter reads seconds or a date (RFC 9110, section 10.2.3).
func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// contentRange reads "bytes 0-9/100" (RFC 9110, section 14.4); for an
// unsatisfied range, "bytes */100", start is -1.
func contentRange(s string) (start, stop, size int64, ok bool) {
	span, total, found := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if !found || err != nil || size < 0 || !strings.HasPrefix(s, "bytes ") {
		return 0, 0, 0, false
	}
	if span == "*" {
		return -1, -1, size, true
	}
	from, to, _ := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err1 != nil || err2 != nil || start < 0 || last < start || last >= size {
		return 0, 0, 0, false
	}
	return start, last + 1, size, true
}
