package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Strategy{
		"":            Recover(),
		"recover":     Recover(),
		"fail-fast":   FailFast(),
		"retry":       Retry(DefaultAttempts),
		"retry(0)":    Retry(0),
		"retry(7)":    Retry(7),
		"retry(1000)": Retry(1000),
	} {
		got, err := Parse(in)
		if err != nil || got.Kind != want.Kind || got.Retries != want.Retries {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"never", "retry(", "retry()", "retry(-1)", "retry(1001)", "retry(2", "retry(2)x", "recover(2)", "Retry", " retry"} {
		if s, err := Parse(in); ClassOf(err) != Usage {
			t.Errorf("Parse(%q) = %+v, %v; want class usage", in, s, err)
		}
	}
}

func TestStringIsWhatParseReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]Strategy{{}, Recover(), FailFast(), Retry(rapid.IntRange(0, 1000).Draw(t, "n"))}).Draw(t, "strategy")
		back, err := Parse(s.String())
		if err != nil || back.Limit() != s.Limit() || back.String() != s.String() {
			t.Fatalf("%+v is written %q and read as %+v, %v", s, s, back, err)
		}
	})
}

func TestActionFor(t *testing.T) {
	mend := RecoverWith(func(error) error { return nil })
	type row struct {
		recover, retry, failFast, handler Action
	}
	again := row{ActionRetry, ActionRetry, ActionFail, ActionRetry}
	maybe := row{ActionFail, ActionRetry, ActionFail, ActionRecover}
	never := row{ActionFail, ActionFail, ActionFail, ActionRecover}
	ended := row{}
	for class, want := range map[Class]row{
		Timeout: again, Unavailable: again, Unreachable: again, Reset: again, DigestMismatch: again, WorkerLost: again, DeviceBusy: again,
		NotFound: maybe, NotAllowed: maybe, ClusterLost: maybe, Internal: maybe,
		InvalidCheckpoint: never, Unsupported: never, SourceChanged: never, OutOfCapacity: never, Usage: never,
		Stale: ended, Cancelled: ended,
	} {
		err := fmt.Errorf("wrapped: %w", Errorf(class, "why"))
		got := row{Recover().ActionFor(err, 1), Retry(3).ActionFor(err, 1), FailFast().ActionFor(err, 1), mend.ActionFor(err, 1)}
		if got != want {
			t.Errorf("%s: %v, want %v", class, got, want)
		}
		if ActionFor(err) != want.recover || ShouldRecover(err) != (want.recover == ActionRetry) {
			t.Errorf("%s: ActionFor and ShouldRecover disagree with Recover", class)
		}
	}
	if Recover().ActionFor(nil, 1) != ActionFail || ShouldRecover(nil) {
		t.Error("there is nothing to try again where nothing failed")
	}
}

func TestTriesAreLimited(t *testing.T) {
	err := Errorf(Reset, "why")
	for _, c := range []struct {
		s     Strategy
		limit int
	}{{Strategy{}, DefaultAttempts}, {Recover(), DefaultAttempts}, {Strategy{Retries: 9}, 9}, {Retry(0), 0}, {Retry(2), 2}, {FailFast(), 0}} {
		for failed := 1; failed <= 10; failed++ {
			if got := c.s.ActionFor(err, failed) == ActionRetry; got != (failed <= c.limit) {
				t.Errorf("%v after %d failed tries: retry %v, limit %d", c.s, failed, got, c.limit)
			}
		}
	}
}

func TestActionString(t *testing.T) {
	for a, want := range map[Action]string{ActionFail: "fail", ActionRetry: "retry", ActionFallback: "fallback", ActionRecover: "recover", 9: "action(9)"} {
		if a.String() != want {
			t.Errorf("%d is %q, want %q", uint8(a), a, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	want := []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000}
	for i, ms := range want {
		if got := (Backoff{}).Ceiling(i + 1); got != ms*time.Millisecond {
			t.Errorf("after %d failures at most %v, want %v ms", i+1, got, int64(ms))
		}
	}
}

func TestDelayIsBetweenHalfAndAllOfTheCeiling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Base:   time.Duration(rapid.Int64().Draw(t, "base")),
			Max:    time.Duration(rapid.Int64().Draw(t, "max")),
			Factor: rapid.Float64().Draw(t, "factor"),
		}
		failed := rapid.Int().Draw(t, "failed")
		limit, d := b.Ceiling(failed), b.Delay(failed)
		if limit <= 0 || d < limit/2 || d > limit {
			t.Fatalf("%+v after %d: %v, ceiling %v", b, failed, d, limit)
		}
		if next := b.Ceiling(max(failed, 1)/2 + 1); failed > 1 && next > limit {
			t.Fatalf("%+v: %v, later %v", b, next, limit)
		}
	})
}

func TestErrorText(t *testing.T) {
	cause := errors.New("unexpected end")
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{&Error{Class: Timeout}, "timeout"},
		{Errorf(Usage, "no %s", "model"), "no model"},
		{&Error{Class: Reset, Op: "read", Err: cause}, "read: unexpected end"},
		{&Error{Class: InvalidCheckpoint, Op: "read", File: "m.safetensors", Tensor: "a.b", Offset: 8, Length: 4, Err: cause, Hint: "download it again"},
			`read m.safetensors tensor "a.b" bytes [8, 12): unexpected end (download it again)`},
		{&Error{Class: Internal, Err: errors.Join(cause, errors.New("and\r\nmore"))}, "unexpected end; and; more"},
		{&Error{Class: Internal, Err: errors.New("")}, ""},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestErrorTextIsOneLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Error{Class: Internal, File: rapid.String().Draw(t, "file"), Tensor: rapid.String().Draw(t, "tensor"), Err: errors.New(rapid.String().Draw(t, "why"))}
		if strings.ContainsAny(e.Error(), "\r\n") {
			t.Fatalf("%q", e.Error())
		}
	})
}

func TestClassOf(t *testing.T) {
	inner := Errorf(NotFound, "gone")
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, ""},
		{errors.New("?"), Internal},
		{context.Canceled, Cancelled},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), Timeout},
		{fmt.Errorf("reading: %w", inner), NotFound},
		{&Error{Class: Unavailable, Err: inner}, Unavailable},
		{&Error{Class: Reset, Err: context.Canceled}, Reset},
	} {
		if got := ClassOf(c.err); got != c.want {
			t.Errorf("ClassOf(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if !errors.Is(&Error{Class: Reset, Err: inner}, inner) {
		t.Error("the cause is not in the chain")
	}
}

// A tensor's name is data: one of a mebibyte does not make a message as long.
func TestLongNames(t *testing.T) {
	e := Errorf(InvalidCheckpoint, "bad")
	e.Tensor = strings.Repeat("x", 1<<20)
	if n := len(e.Error()); n > 300 {
		t.Errorf("a message of %d bytes", n)
	}
}
