package integration

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// slow is a load that takes about two seconds on two workers: 1 MiB at a
// rate, in chunks of 64 KiB.
func slow(t *testing.T, id string, tp int) messages.LoadRequest {
	q := stories(t, "hf-f32", id, tp)
	q.Options.ChunkBytes = 64 << 10
	q.LimitRate = 256 << 10
	return q
}

// events lists what the event stream says of a job that has ended.
func events(t *testing.T, c *Cluster, id string) map[progress.Kind][]progress.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	notices, err := c.Client.WatchJob(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	out := map[progress.Kind][]progress.Event{}
	for n := range notices {
		if n.Event != nil {
			out[n.Event.Kind] = append(out[n.Event.Kind], *n.Event)
		}
	}
	return out
}

// TestWorkerKilled: a worker that is killed in the middle of a load costs what
// it held and no more, and the events say so.
func TestWorkerKilled(t *testing.T) {
	c := StartCluster(t, bin, 3)
	calm := once(slow(t, "calm", 2))
	calm.LimitRate = 0
	want := c.Load(calm)
	if want.State != messages.StateReady {
		t.Fatal(want.Why)
	}
	j := c.Submit(slow(t, "killed", 2))
	var victim string
	c.Until("something is placed", func() bool {
		s := c.Status(j.Job)
		if s.Counters.ChunksDone < 2 || s.State.Final() {
			return s.State.Final()
		}
		victim = s.Ranks[0].Worker
		return true
	})
	if victim == "" {
		t.Fatal("the load ended before a worker could be killed")
	}
	killed := time.Now()
	c.Workers[victim].Kill()
	c.Until("it is suspect", func() bool { return c.Coordinator.find(suspectOf(victim)) != "" })
	if took := logTime(t, c.Coordinator.find(suspectOf(victim))).Sub(killed); took > suspectWithin {
		t.Errorf("suspect after %v, want %v", took, suspectWithin)
	}
	atLoss := c.Status(j.Job)
	end := c.Await(j.Job)
	if end.State != messages.StateReady {
		t.Fatalf("%s: %s", end.State, end.Why)
	}
	for i, r := range end.Ranks {
		if r.Worker == victim {
			t.Errorf("rank %d is still at %s", i, victim)
		}
		if r.Digest == "" {
			t.Errorf("rank %d has no digest", i)
		}
	}
	// What was read again is at most what had been read when the worker was
	// lost, and what was in flight then.
	again, most := end.BytesRead-want.BytesRead, atLoss.BytesRead+8*end.Options.ChunkBytes
	if again <= 0 || again > most {
		t.Errorf("%d bytes were read again, want more than none and at most %d", again, most)
	}
	for i, r := range end.Ranks {
		if r.Digest != want.Ranks[i].Digest {
			t.Errorf("rank %d has digest %s, without the loss %s", i, r.Digest, want.Ranks[i].Digest)
		}
	}
	got := events(t, c, j.Job)
	for _, k := range []progress.Kind{progress.Submitted, progress.Planned, progress.Started, progress.WorkerLost, progress.RankMoved, progress.RankSealed, progress.ReadyEvent} {
		if len(got[k]) == 0 {
			t.Errorf("no event %s", k)
		}
	}
	if e := got[progress.WorkerLost]; len(e) > 0 && e[0].Worker != victim {
		t.Errorf("lost is %s, killed was %s", e[0].Worker, victim)
	}
	if e := got[progress.RankMoved]; len(e) > 0 && e[0].Time.Sub(killed) > movesWithin+slack {
		t.Errorf("its rank moved after %v, want %v", e[0].Time.Sub(killed), movesWithin)
	}
}

// suspectWithin is how soon the chunks of a worker that was killed are taken
// from it: its connection breaks.
const suspectWithin = 500 * time.Millisecond

// suspectOf is what a coordinator logs then.
func suspectOf(worker string) string {
	return `msg="worker is suspect: its connection broke" worker=` + worker
}

// logTime returns when a line was logged.
func logTime(t *testing.T, line string) time.Time {
	t.Helper()
	text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestReadFailsTwice: a read that fails twice and then works is two retries.
func TestReadFailsTwice(t *testing.T) {
	c := StartCluster(t, bin, 1, "--inject", "read model.safetensors [500000,500100) fail unavailable times=2")
	j := c.Load(stories(t, "hf-f32", "twice", 1))
	if j.State != messages.StateReady || j.Retries != 2 {
		t.Errorf("%s with %d retries: %s", j.State, j.Retries, j.Why)
	}
}

// TestReadAlwaysFails: one line says file, tensor, bytes and cause.
func TestReadAlwaysFails(t *testing.T) {
	c := StartCluster(t, bin, 2, "--inject", "read model.safetensors [500000,500100) fail unavailable")
	q := stories(t, "hf-f32", "never", 2)
	q.Recovery = "retry(1)"
	j := c.Load(q)
	if j.State != messages.StateFailed || j.Class != recovery.Unavailable {
		t.Fatalf("%s, class %s: %s", j.State, j.Class, j.Why)
	}
	for _, part := range []string{"model.safetensors", "tensor \"", "bytes [", "unavailable"} {
		if !strings.Contains(j.Why, part) || strings.Contains(j.Why, "\n") {
			t.Errorf("%q is not one line with %q in it", j.Why, part)
		}
	}
}

// TestErrorsKeepTheirClass from the worker's source to the client.
func TestErrorsKeepTheirClass(t *testing.T) {
	c := StartCluster(t, bin, 1)
	q := stories(t, "no-such-folder", "missing", 1)
	if j := c.Load(q); j.Class != recovery.NotFound {
		t.Errorf("missing: class %s: %s", j.Class, j.Why)
	}
	q = stories(t, "hf-f32", "wide", 3)
	if j := c.Load(q); j.State != messages.StateFailed || j.Class != recovery.Usage {
		t.Errorf("tp 3: class %s: %s", j.Class, j.Why)
	}
	q = stories(t, "hf-f32", "gpu", 1)
	q.Device = "cuda:7"
	if j := c.Load(q); j.Class != recovery.OutOfCapacity || j.BytesRead != 0 {
		t.Errorf("no such device: class %s: %s", j.Class, j.Why)
	}
}

// TestAllowedSources: a worker process reads from the folders and hosts that it
// was started with, and from nowhere else.
func TestAllowedSources(t *testing.T) {
	const refusals = `gantry_control_refused_total{error_type="not_allowed"`
	model := filepath.Join(Testdata(t), "stories260K", "hf-f32")
	var asked atomic.Int64
	files := http.FileServer(http.Dir(model))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	for _, c := range []struct {
		name         string
		args         []string
		remote, file recovery.Class
	}{
		{"host", []string{"--allow-host", "127.0.0.1"}, "", ""},
		{"other-host", []string{"--allow-host", "*.example.com"}, recovery.NotAllowed, ""},
		{"root", []string{"--model-root", model}, recovery.NotAllowed, ""},
		{"other-root", []string{"--model-root", t.TempDir(), "--allow-host", "127.0.0.1"}, "", recovery.NotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := StartCluster(t, bin, 1, c.args...)
			for uri, want := range map[string]recovery.Class{server.URL + "/": c.remote, model: c.file} {
				asked.Store(0)
				before := cluster.Workers["w1"].metric(t, refusals)
				q := messages.LoadRequest{Job: "j" + string(want), Name: "m", URI: uri}
				if uri == model {
					q.Job, q.Name = q.Job+"-file", "m-file"
				}
				j := cluster.Load(q)
				if j.Class != want || (want == "") != (j.State == messages.StateReady) {
					t.Errorf("%s: %s, class %q: %s", uri, j.State, j.Class, j.Why)
				}
				refused := cluster.Workers["w1"].metric(t, refusals) - before
				if allowed := want == ""; allowed != (refused == 0) {
					t.Errorf("%s: counted as refused %.0f times", uri, refused)
				}
				if c.remote == recovery.NotAllowed && asked.Load() != 0 {
					t.Errorf("the server was asked %d times", asked.Load())
				}
			}
		})
	}
}

// TestCancel: a cancelled job frees what it placed.
func TestCancel(t *testing.T) {
	c := StartCluster(t, bin, 2)
	j := c.Submit(slow(t, "cancelled", 2))
	c.Until("it loads", func() bool { return c.Status(j.Job).Counters.ChunksDone > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	if _, err := c.Client.Cancel(ctx, j.Job, "no longer needed"); err != nil {
		t.Fatal(err)
	}
	if end := c.Await(j.Job); end.State != messages.StateCancelled {
		t.Errorf("%s: %s", end.State, end.Why)
	}
	for _, w := range c.MustWorkers() {
		if d := w.Devices[0]; d.Free != 256<<20 {
			t.Errorf("worker %s has %d bytes free, want all", w.Name, d.Free)
		}
	}
	// What is free can be loaded again.
	if again := c.Load(stories(t, "hf-f32", "again", 2)); again.State != messages.StateReady {
		t.Errorf("%s: %s", again.State, again.Why)
	}
}

// TestUnload frees a resident model.
func TestUnload(t *testing.T) {
	c := StartCluster(t, bin, 2)
	if j := c.Load(stories(t, "hf-f32", "a", 2)); j.State != messages.StateReady {
		t.Fatal(j.Why)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	if _, err := c.Client.Unload(ctx, "m-a"); err != nil {
		t.Fatal(err)
	}
	if models, err := c.Client.Models(ctx); err != nil || len(models) != 0 {
		t.Errorf("models %v, %v", models, err)
	}
	for _, w := range c.MustWorkers() {
		if w.Devices[0].Free != 256<<20 {
			t.Errorf("worker %s has not all of its memory", w.Name)
		}
	}
}

// TestStopIsClean: a worker that is told to stop gives its lease back, and does
// not leave it to end.
func TestStopIsClean(t *testing.T) {
	c := StartCluster(t, bin, 2)
	lease, err := c.Conn.SubscribeSync("$KV.gantry-members.w2")
	if err == nil {
		err = c.Conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.Flush(); err != nil { // or it may come after the lease's end
		t.Fatal(err)
	}
	if err := c.Workers["w2"].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for back := false; !back; { // what is not given back ends without a message
		m, err := lease.NextMsg(readyLimit)
		if err != nil {
			t.Fatalf("the lease is not given back: %v", err)
		}
		back = m.Header.Get("KV-Operation") == "PURGE"
	}
	c.Until("the worker is gone", func() bool { return len(c.MustWorkers()) == 1 })
	if code := c.Workers["w2"].Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code := c.Coordinator.Stop(); code != 0 {
		t.Errorf("coordinator: exit code %d", code)
	}
}
