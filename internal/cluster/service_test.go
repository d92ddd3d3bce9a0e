package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// fakeLeader answers from values, and keeps what it was asked.
type fakeLeader struct {
	load  messages.LoadRequest
	span  trace.SpanContext
	jobs  []messages.Job
	plan  *shard.Plan
	fail  error
	block chan struct{}
}

func (f *fakeLeader) Load(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	f.load, f.span = q, trace.SpanContextFromContext(ctx)
	return messages.Job{Job: q.Job, State: messages.StatePlanning}, f.fail
}
func (f *fakeLeader) Swap(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	return f.Load(ctx, q)
}
func (f *fakeLeader) Plan(context.Context, messages.LoadRequest) (*shard.Plan, error) {
	return f.plan, f.fail
}
func (f *fakeLeader) Status(ctx context.Context, q messages.JobRequest) (messages.Job, error) {
	if f.block != nil {
		f.block <- struct{}{}
		<-ctx.Done()
		return messages.Job{}, ctx.Err()
	}
	return messages.Job{Job: q.Job, State: messages.StateReady}, f.fail
}
func (f *fakeLeader) Jobs(context.Context) ([]messages.Job, error) { return f.jobs, f.fail }
func (f *fakeLeader) Cancel(_ context.Context, q messages.JobRequest) (messages.Job, error) {
	return messages.Job{Job: q.Job, Why: q.Reason, State: messages.StateCancelled}, f.fail
}
func (f *fakeLeader) Models(context.Context) ([]messages.Model, error) {
	return []messages.Model{{Name: "m"}}, f.fail
}
func (f *fakeLeader) Export(_ context.Context, q messages.ExportRequest) (messages.Export, error) {
	return messages.Export{Export: q.Export, Model: q.Name, Path: q.Path, State: messages.StateLoading, Warnings: []string{}}, nil
}

func (f *fakeLeader) Unload(_ context.Context, q messages.ModelRequest) (messages.Model, error) {
	return messages.Model{Name: q.Name}, f.fail
}
func (f *fakeLeader) Workers(context.Context) ([]messages.Worker, error) {
	return []messages.Worker{worker("w", 1, 5)}, f.fail
}

// always leads.
func always(context.Context) bool { return true }

func serve(t *testing.T, api API) (*Cluster, *Client) {
	t.Helper()
	s := startServer(t, ServerOptions{})
	c := open(t, s, Options{})
	stop, err := c.Serve(api, "v0.1-dev", always)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return c, NewClient(open(t, s, Options{}).nc)
}

func TestVerbs(t *testing.T) {
	leader := &fakeLeader{jobs: []messages.Job{someJob("a"), someJob("b")}, plan: &shard.Plan{Version: shard.Version, Checkpoint: "abc", Ranks: []shard.Rank{{}},
		Options: shard.Options{Layout: shard.Layout{TP: 1, PP: 1, EP: 1, DP: 1}, Scheme: "none", ChunkBytes: shard.DefaultChunkBytes}}}
	_, client := serve(t, leader)
	ctx := t.Context()

	q := messages.LoadRequest{Job: "a", URI: "/m", Options: shard.Options{Scheme: "q8_0", Layout: shard.Layout{TP: 2}}, Recovery: "retry(3)"}
	j, err := client.Load(ctx, q)
	if err != nil || j.Job != "a" {
		t.Fatalf("load: %v, %v", j, err)
	}
	if diff := cmp.Diff(q, leader.load); diff != "" {
		t.Error(diff)
	}
	if p, err := client.Plan(ctx, q); err != nil || p.Checkpoint != "abc" {
		t.Errorf("plan: %v, %v", p, err)
	}
	if j, err := client.Status(ctx, "a"); err != nil || j.Job != "a" {
		t.Errorf("status: %v, %v", j, err)
	}
	jobs, err := client.Jobs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(leader.jobs, jobs); diff != "" {
		t.Error(diff)
	}
	if j, err := client.Cancel(ctx, "a", "enough"); err != nil || j.Why != "enough" {
		t.Errorf("cancel: %v, %v", j, err)
	}
	if m, err := client.Models(ctx); err != nil || len(m) != 1 {
		t.Errorf("models: %v, %v", m, err)
	}
	if x, err := client.Export(ctx, messages.ExportRequest{Export: "e", Name: "m", Path: "/m"}); err != nil || x.Model != "m" || x.State != messages.StateLoading {
		t.Errorf("export %+v, %v", x, err)
	}
	if m, err := client.Unload(ctx, "m"); err != nil || m.Name != "m" {
		t.Errorf("unload: %v, %v", m, err)
	}
	if w, err := client.Workers(ctx); err != nil || len(w) != 1 {
		t.Errorf("workers: %v, %v", w, err)
	}
}

func TestErrorsKeepTheirClass(t *testing.T) {
	leader := &fakeLeader{fail: &recovery.Error{Class: recovery.OutOfCapacity, Op: "load", Err: errors.New("3 GiB\nmissing")}}
	c, client := serve(t, leader)
	_, err := client.Workers(t.Context())
	wantClass(t, err, recovery.OutOfCapacity)
	if !strings.Contains(err.Error(), "3 GiB; missing") {
		t.Errorf("message %q", err)
	}
	// As another NATS client sees it.
	m, err := c.nc.Request("gantry.v1.api.workers", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "422" {
		t.Errorf("error code %q", code)
	}
	if want := `{"error":{"class":"out_of_capacity","message":"load: 3 GiB; missing"}}`; string(m.Data) != want {
		t.Errorf("body %s, want %s", m.Data, want)
	}
}

func TestRequestsAreRead(t *testing.T) {
	c, _ := serve(t, &fakeLeader{})
	for _, bad := range []string{`{"jobs":"a"}`, `{"job":1}`, `[]`, `{}{}`, `{`, `{"reason":"` + strings.Repeat("x", maxRequest) + `"}`} {
		m, err := c.nc.Request("gantry.v1.api.status", []byte(bad), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var r errorReply
		if err := json.Unmarshal(m.Data, &r); err != nil || r.Error.Class != recovery.Usage || m.Header.Get(micro.ErrorCodeHeader) != "400" {
			t.Errorf("%.40s: reply %s", bad, m.Data)
		}
	}
	for _, good := range []string{``, `{}`, " \n"} {
		m, err := c.nc.Request("gantry.v1.api.jobs", []byte(good), 5*time.Second)
		if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "" {
			t.Errorf("%q: %v %s", good, err, m.Data)
		}
	}
}

func TestLargeReplies(t *testing.T) {
	leader := &fakeLeader{}
	for i := range 3000 {
		j := someJob(strings.Repeat("j", 1+i%9))
		j.Why = strings.Repeat("because ", 100)
		leader.jobs = append(leader.jobs, j)
	}
	_, client := serve(t, leader)
	got, err := client.Jobs(t.Context())
	if err != nil || len(got) != len(leader.jobs) {
		t.Fatalf("%d jobs, %v", len(got), err)
	}
}

func TestNoLeader(t *testing.T) {
	c := open(t, startServer(t, ServerOptions{}), Options{})
	_, err := NewClient(c.nc).Jobs(t.Context())
	wantClass(t, err, recovery.ClusterLost)
	if !strings.Contains(err.Error(), "no coordinator leads") {
		t.Errorf("error %q", err)
	}
}

func TestStopWaits(t *testing.T) {
	leader := &fakeLeader{block: make(chan struct{})}
	s := startServer(t, ServerOptions{})
	stop, err := open(t, s, Options{}).Serve(leader, "1.2.3", always)
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(open(t, s, Options{}).nc)
	answer := make(chan error, 1)
	go func() {
		_, err := client.Status(t.Context(), "j")
		answer <- err
	}()
	receive(t, leader.block)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	wantClass(t, receive(t, answer), recovery.Cancelled)
}

// TestMicroDiscovery: what `nats micro ls` and `nats micro info` ask.
func TestMicroDiscovery(t *testing.T) {
	c, _ := serve(t, &fakeLeader{})
	m, err := c.nc.Request("$SRV.INFO.gantry", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Endpoints) != len(endpoints) || info.Metadata["version"] != "v0.1-dev" {
		t.Errorf("info: %+v", info)
	}
	for _, e := range info.Endpoints {
		if e.Subject != "gantry.v1.api."+e.Name {
			t.Errorf("%s has the subject %s", e.Name, e.Subject)
		}
		for _, key := range []string{"request_schema", "reply_schema"} {
			var schema struct{ Type string }
			if err := json.Unmarshal([]byte(e.Metadata[key]), &schema); err != nil || schema.Type == "" {
				t.Errorf("%s: %s is %q", e.Name, key, e.Metadata[key])
			}
		}
	}
}

func TestSchema(t *testing.T) {
	got, err := schemaOf(messages.LoadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"required":["uri","options"]`, `"limit_rate":{"type":"integer"}`, `"tp":{"type":"integer"}`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

func TestTraceGoesThrough(t *testing.T) {
	leader := &fakeLeader{}
	c, client := serve(t, leader)
	want := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), want)
	wire := subscribe(t, c.nc, "gantry.v1.api.load")
	replies := subscribe(t, c.nc, "_INBOX.>")
	if _, err := client.Load(ctx, messages.LoadRequest{Job: "a"}); err != nil {
		t.Fatal(err)
	}
	if leader.span.TraceID() != want.TraceID() {
		t.Errorf("trace %s, want %s", leader.span.TraceID(), want.TraceID())
	}
	for _, m := range []*nats.Msg{receive(t, wire), receive(t, replies)} {
		if len(m.Header["traceparent"]) != 1 {
			t.Errorf("%s: headers %v", m.Subject, m.Header)
		}
	}
}

func TestWatchJob(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, Options{})
	client := NewClient(open(t, s, Options{}).nc)
	say := func(subject string, v any) {
		t.Helper()
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.js.Publish(t.Context(), subject, data); err != nil {
			t.Fatal(err)
		}
	}
	event := func(job string, k progress.Kind) {
		t.Helper()
		say(messages.EventSubject("gantry.v1", job, k), progress.Event{Job: job, Kind: k})
	}
	rev, err := c.Jobs.Put(t.Context(), someJob("j"), 0)
	if err != nil {
		t.Fatal(err)
	}
	event("j", progress.Submitted)
	event("other", progress.Failed)
	for seq := range uint64(5) {
		say(messages.ProgressSubject("gantry.v1", "j", "w"), progress.Update{Job: "j", Worker: "w", Seq: seq + 1})
	}
	notices, err := client.WatchJob(t.Context(), "j")
	if err != nil {
		t.Fatal(err)
	}
	var events []progress.Kind
	var seqs []uint64
	var states []messages.State
	for len(events) < 1 || len(seqs) < 1 || len(states) < 1 {
		note(receive(t, notices), &events, &seqs, &states)
	}
	final := someJob("j")
	final.State = messages.StateReady
	if _, err := c.Jobs.Put(t.Context(), final, rev); err != nil {
		t.Fatal(err)
	}
	event("j", progress.ReadyEvent)
	for n := range notices {
		note(n, &events, &seqs, &states)
	}
	if diff := cmp.Diff([]progress.Kind{progress.Submitted, progress.ReadyEvent}, events); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint64{5}, seqs); diff != "" {
		t.Error("a late watch gets the last report only:", diff)
	}
	if diff := cmp.Diff([]messages.State{messages.StateLoading, messages.StateReady}, states); diff != "" {
		t.Error(diff)
	}
}

func note(n JobNotice, events *[]progress.Kind, seqs *[]uint64, states *[]messages.State) {
	switch {
	case n.Event != nil:
		*events = append(*events, n.Event.Kind)
	case n.Progress != nil:
		*seqs = append(*seqs, n.Progress.Seq)
	case n.Job != nil:
		*states = append(*states, n.Job.State)
	}
}

func TestWatchJobEndsWithItsContext(t *testing.T) {
	s := startServer(t, ServerOptions{})
	c := open(t, s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	notices, err := NewClient(c.nc).WatchJob(ctx, "never")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range notices {
	}
}

// TestUnsureLeader: one that finds that it does not lead answers nothing; the
// client asks until one leads.
func TestUnsureLeader(t *testing.T) {
	s := startServer(t, ServerOptions{})
	asked := make(chan struct{}, 100)
	stop, err := open(t, s, Options{}).Serve(&fakeLeader{fail: errors.New("the wrong one")}, "v1.0.0", func(context.Context) bool {
		asked <- struct{}{}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(open(t, s, Options{}).nc)
	answer := make(chan error, 1)
	go func() {
		_, err := client.Models(t.Context())
		answer <- err
	}()
	receive(t, asked)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(changePause) // nobody answers
	stop, err = open(t, s, Options{}).Serve(&fakeLeader{}, "v1.0.0", always)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := receive(t, answer); err != nil {
		t.Error(err)
	}
}
