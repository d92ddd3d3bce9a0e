package cluster

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/recovery"
)

// settle is how long a refusal waits for another: of a request NATS refuses
// first the inbox of the answer, then the subject, which says more.
const settle = 500 * time.Millisecond

// waiters are those who wait, on a connection of Connect, for an answer that
// does not come where NATS refuses a subject: it says so to the connection and
// not to them.
var waiters struct {
	sync.Mutex
	of map[*nats.Conn][]*waiter
}

// waiter is one of them.
type waiter struct {
	subject string // what it waits for, "" is anything
	cancel  context.CancelFunc

	// Under the lock of waiters: the last thing that was refused, and whether
	// cancel was called for it.
	refused   error
	cancelled bool
}

// awaitRefusal calls cancel soon after NATS has refused something on the
// connection: the subject, the inbox of its answer or, where subject is "",
// anything. end, which must be called, stops that. It returns err, or where
// that is an error and something was refused, what and whom.
func awaitRefusal(nc *nats.Conn, subject string, cancel context.CancelFunc) (end func(op string, err error) error) {
	w := &waiter{subject: subject, cancel: cancel}
	waiters.Lock()
	defer waiters.Unlock()
	if waiters.of == nil {
		waiters.of = map[*nats.Conn][]*waiter{}
	}
	waiters.of[nc] = append(waiters.of[nc], w)
	return func(op string, err error) error {
		waiters.Lock()
		defer waiters.Unlock()
		others := slices.DeleteFunc(waiters.of[nc], func(o *waiter) bool { return o == w })
		if waiters.of[nc] = others; len(others) == 0 {
			delete(waiters.of, nc)
		}
		if w.refused == nil || err == nil && !w.cancelled {
			return err
		}
		return notPermitted(op, nc.Opts.User, w.refused)
	}
}

// tellRefusal passes a permission violation on to those who wait on the
// connection. It reports whether there was one.
func tellRefusal(nc *nats.Conn, err error) bool {
	waiters.Lock()
	defer waiters.Unlock()
	told := false
	for _, w := range waiters.of[nc] {
		if m := violation.FindStringSubmatch(err.Error()); w.subject != "" && m != nil && m[2] != w.subject && !strings.HasPrefix(m[2], nats.InboxPrefix) {
			continue
		}
		told = true
		if w.refused == nil {
			time.AfterFunc(settle, func() {
				waiters.Lock()
				defer waiters.Unlock()
				if slices.Contains(waiters.of[nc], w) {
					w.cancelled = true
					w.cancel()
				}
			})
		}
		w.refused = err
	}
	return told
}

// violation is how the server words it.
var violation = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to "([^"]*)"`)

// notPermitted is the error for a user to whom NATS has refused something.
func notPermitted(op, user string, err error) error {
	who := "this NATS user"
	if user != "" {
		who = fmt.Sprintf("NATS user %q", user)
	}
	why := fmt.Errorf("%s has no right: %w", who, err)
	if m := violation.FindStringSubmatch(err.Error()); m != nil {
		what := "publish to"
		if m[1] == "Subscription" {
			what = "subscribe to"
		}
		why = fmt.Errorf("%s may not %s %s", who, what, m[2])
	}
	return &recovery.Error{Class: recovery.NotAllowed, Op: op, Err: why,
		Hint: "gantry needs a user of role client, coordinators and workers one of role node"}
}
