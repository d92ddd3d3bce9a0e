package recovery

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Action is what a strategy decides about one failure.
type Action uint8

// The actions.
const (
	ActionFail     Action = iota // give up and report the error
	ActionRetry                  // the same again, after the back-off
	ActionFallback               // go on with the next source of the list
	ActionRecover                // call the caller's function, then go on
)

// String returns "fail", "retry", "fallback" or "recover".
func (a Action) String() string {
	names := [...]string{"fail", "retry", "fallback", "recover"}
	if int(a) >= len(names) {
		return fmt.Sprintf("action(%d)", uint8(a))
	}
	return names[a]
}

// Kind is a strategy's name as a user writes it.
type Kind string

// The strategies.
const (
	KindRecover  Kind = "recover"   // retry what is recoverable (wrong bytes once), fail the rest at once (the default)
	KindRetry    Kind = "retry"     // retry everything but what can never work, n times
	KindFailFast Kind = "fail-fast" // the first error ends the job
)

// DefaultAttempts is how many times `recover` tries again before it gives up.
const DefaultAttempts = 4

// Strategy decides what happens to a failed piece of work. The zero value is
// Recover().
type Strategy struct {
	Kind    Kind    `json:"kind,omitempty"`
	Retries int     `json:"retries,omitempty"` // tries after the first; 0 means the kind's default
	Backoff Backoff `json:"backoff,omitzero"`
	// Handler, if set, is called for an error that the kind would fail on. A
	// nil result means that it mended the cause and the work is tried again.
	// It stays in this process: it is not sent to workers.
	Handler func(error) error `json:"-"`
}

// Recover retries recoverable errors and fails at once on the others.
func Recover() Strategy { return Strategy{Kind: KindRecover} }

// Retry tries every failed piece of work up to n times more.
func Retry(n int) Strategy { return Strategy{Kind: KindRetry, Retries: n} }

// FailFast ends the job at the first error.
func FailFast() Strategy { return Strategy{Kind: KindFailFast} }

// RecoverWith is Recover with a function that may mend what Recover gives up
// on.
func RecoverWith(mend func(error) error) Strategy {
	return Strategy{Kind: KindRecover, Handler: mend}
}

// Parse reads a strategy as the command line writes it: "recover",
// "fail-fast", "retry" or "retry(5)".
func Parse(s string) (Strategy, error) {
	name, rest, hasN := strings.Cut(s, "(")
	switch {
	case s == "" || s == string(KindRecover):
		return Recover(), nil
	case s == string(KindFailFast):
		return FailFast(), nil
	case s == string(KindRetry):
		return Retry(DefaultAttempts), nil
	case name == string(KindRetry) && hasN && strings.HasSuffix(rest, ")"):
		n, err := strconv.Atoi(strings.TrimSuffix(rest, ")"))
		if err == nil && n >= 0 && n <= 1000 {
			return Strategy{Kind: KindRetry, Retries: n}, nil
		}
	}
	return Strategy{}, Errorf(Usage, "unknown recovery strategy %q: want recover, retry(N) with N from 0 to 1000, or fail-fast", s)
}

// String writes the strategy as Parse reads it.
func (s Strategy) String() string {
	switch s.Kind {
	case KindRetry:
		return fmt.Sprintf("retry(%d)", s.Retries)
	case "":
		return string(KindRecover)
	}
	return string(s.Kind)
}

// Limit returns how many tries may follow the first.
func (s Strategy) Limit() int {
	switch {
	case s.Kind == KindFailFast:
		return 0
	case s.Retries > 0 || s.Kind == KindRetry:
		return s.Retries
	}
	return DefaultAttempts
}

// ActionFor decides about a failure after `failed` failed tries (1 for the
// first failure).
func (s Strategy) ActionFor(err error, failed int) Action {
	c := ClassOf(err)
	if err == nil || c == Cancelled || c == Stale || failed > s.Limit() {
		return ActionFail
	}
	if c == DigestMismatch && failed > 1 && s.Kind != KindRetry {
		return ActionFail // wrong twice is wrong at the source
	}
	if c.Recoverable() || s.Kind == KindRetry && !hopeless(c) {
		return ActionRetry
	}
	if s.Handler != nil {
		return ActionRecover
	}
	return ActionFail
}

// hopeless classes fail the same way however often they are tried.
func hopeless(c Class) bool {
	switch c {
	case InvalidCheckpoint, Unsupported, SourceChanged, OutOfCapacity, Usage:
		return true
	}
	return false
}

// ActionFor says what the default strategy does about a first failure.
func ActionFor(err error) Action { return Recover().ActionFor(err, 1) }

// Backoff is exponential with full jitter on its upper half. The zero value
// is 50 ms doubling to 5 s.
type Backoff struct {
	Base   time.Duration `json:"base,omitempty"`
	Max    time.Duration `json:"max,omitempty"`
	Factor float64       `json:"factor,omitempty"`
}

// Ceiling returns the longest wait after `failed` failed tries (1 for the
// first): min(Max, Base × Factor^(failed-1)).
func (b Backoff) Ceiling(failed int) time.Duration {
	base, limit, factor := b.Base, b.Max, b.Factor
	if base <= 0 {
		base = 50 * time.Millisecond
	}
	if limit <= 0 {
		limit = 5 * time.Second
	}
	if !(factor >= 1) { // NaN too
		factor = 2
	}
	d := float64(base) * math.Pow(factor, float64(max(failed, 1)-1))
	if d >= float64(limit) {
		return limit
	}
	return time.Duration(d)
}

// Delay returns how long to wait after `failed` failed tries: a random time
// between half and all of Ceiling.
func (b Backoff) Delay(failed int) time.Duration {
	d := b.Ceiling(failed)
	return d - time.Duration(rand.Float64()*float64(d/2))
}
