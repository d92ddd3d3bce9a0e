package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// metric reads a number from the process's /metrics: the sum over all
// attributes of the metrics whose name begins so.
func (p *Process) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	client := http.DefaultClient
	if p.dial != nil {
		client = &http.Client{Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
	}
	r, err := client.Get("http://" + p.Ready["http"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		words := strings.Fields(line)
		n, err := strconv.ParseFloat(words[len(words)-1], 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// arenas is the memory that a worker's arenas take.
func (p *Process) arenas(t *testing.T) float64 { return p.metric(t, "gantry_arena_bytes") }

// TestWaitForWorkers: a load that does not fit waits for a worker, or fails
// with what is missing when its time is over.
func TestWaitForWorkers(t *testing.T) {
	c := StartCluster(t, bin, 1, "--memory", "700KiB")
	uri := stories(t, "hf-f32", "", 2).URI // about 1 MiB
	args := func(wait string) []string {
		return []string{"load", uri, "--tp", "2", "--server", c.URL, "--json", "--wait-for-workers", wait}
	}
	var j messages.Job
	if err := json.Unmarshal(command(t, 5, args("1s")...), &j); err != nil {
		t.Fatal(err)
	}
	if j.State != messages.StateFailed || !strings.Contains(j.Why, "no room for 1 of 2 ranks") || j.Seconds < 1 {
		t.Errorf("%s after %.1f s: %s", j.State, j.Seconds, j.Why)
	}
	if err := json.Unmarshal(command(t, 5, args("2,1s")...), &j); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(j.Why, "1 of 2 workers have joined") {
		t.Errorf("%s: %s", j.State, j.Why)
	}
	q := stories(t, "hf-f32", "waits", 2)
	q.WaitSeconds, q.WaitWorkers = 60, 2
	c.Submit(q)
	c.Until("it says why it waits", func() bool {
		s := c.Status(q.Job)
		return s.State == messages.StateWaiting && strings.Contains(s.Why, "1 of 2 workers")
	})
	c.StartWorker("second", "--memory", "700KiB")
	if end := c.Await(q.Job); end.State != messages.StateReady {
		t.Errorf("%s: %s", end.State, end.Why)
	}
}

// TestDeadline: a load that takes too long fails, says so, and frees what it
// had placed.
func TestDeadline(t *testing.T) {
	c := StartCluster(t, bin, 2)
	q := slow(t, "late", 2)
	q.DeadlineSeconds = 1
	j := c.Load(q)
	if j.State != messages.StateFailed || j.Class != recovery.Timeout || !strings.Contains(j.Why, "the deadline of 1s has passed") || j.Seconds > 1+slack.Seconds() {
		t.Errorf("%s, class %s, after %.1f s: %s", j.State, j.Class, j.Seconds, j.Why)
	}
	for name, w := range c.Workers {
		if n := w.arenas(t); n != 0 {
			t.Errorf("worker %s holds %.0f bytes", name, n)
		}
	}
}

// TestDeadSource: however often each chunk may try, a source that is down is
// asked no more often than the job's budget allows.
func TestDeadSource(t *testing.T) {
	c := StartCluster(t, bin, 2, "--inject", "read model.safetensors [100000,1100000) fail unavailable")
	q := slow(t, "storm", 2)
	q.LimitRate, q.Recovery, q.RetryBudget = 0, "retry(1000)", 10
	j := c.Load(q)
	if j.State != messages.StateFailed || j.Class != recovery.Unavailable || !strings.Contains(j.Why, "budget of 10") {
		t.Errorf("%s, class %s: %s", j.State, j.Class, j.Why)
	}
	if j.Retries < 10 || j.Retries > 10+int(j.Counters.ChunksDone)+1 {
		t.Errorf("%d retries with a budget of 10, %d chunks done", j.Retries, j.Counters.ChunksDone)
	}
}

// freedWithin is how soon a cancelled job holds nothing any more.
const freedWithin = 2 * time.Second

// TestCancelFreesAtOnce: also a worker that is frozen does not hold up the end
// of a cancelled job, and frees what it has of it when it thaws, be that before
// or after its lease has ended.
func TestCancelFreesAtOnce(t *testing.T) {
	for _, frozen := range []time.Duration{time.Second, freedWithin + 2*slack} {
		t.Run(fmt.Sprint(frozen), func(t *testing.T) {
			c := StartCluster(t, bin, 2, "--memory", "700KiB") // one rank each
			q := slow(t, "cancelled", 2)
			q.WaitWorkers, q.WaitSeconds = 2, 30
			j := c.Submit(q)
			c.Until("both hold something", func() bool {
				s := c.Status(j.Job)
				return len(s.Ranks) == 2 && s.Ranks[0].BytesDone > 0 && s.Ranks[1].BytesDone > 0
			})
			w1, w2 := c.Workers["w1"], c.Workers["w2"]
			if w1.arenas(t) == 0 || w2.arenas(t) == 0 {
				t.Fatal("a worker of the load holds no arena")
			}
			strike(t, w2, syscall.SIGSTOP)
			thaw := time.AfterFunc(frozen, func() { strike(t, w2, syscall.SIGCONT) })
			defer thaw.Stop()
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), readyLimit)
			defer cancel()
			if _, err := c.Client.Cancel(ctx, j.Job, "no longer needed"); err != nil {
				t.Fatal(err)
			}
			end := c.Await(j.Job)
			if took := time.Since(start); end.State != messages.StateCancelled || took > freedWithin+slack {
				t.Errorf("%s after %v", end.State, took)
			}
			if n := w1.arenas(t); n != 0 {
				t.Errorf("w1 holds %.0f bytes", n)
			}
			time.Sleep(time.Until(start.Add(frozen)))
			c.Until("the worker that thawed holds nothing", func() bool { return w2.arenas(t) == 0 })
			if took := time.Since(start) - frozen; took > freedWithin+slack {
				t.Errorf("the worker that thawed freed its memory after %v", took)
			}
		})
	}
}

// strike sends a signal to a process of the test.
func strike(t *testing.T, p *Process, s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("signal %v to %s: %v", s, p.Name, err)
	}
}
