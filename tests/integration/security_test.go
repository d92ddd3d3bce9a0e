package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// TestNATSUsers: each user of the embedded server may do what its role says,
// and what one may not is refused, logged, counted and harmless.
func TestNATSUsers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	users := write("users.yaml", `users:
  - {name: worker, password: w0rk, role: node}
  - {name: cli, password: cl1, role: client}
  - {name: screen, password: scr33n, role: progress}
`)
	c := &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}
	c.Coordinator = Launch(t, filepath.Join(bin, "coordinator"), "coordinator",
		"--nats-users", users, "--nats-listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	c.URL = c.Coordinator.Ready["nats"]
	connect := func(name, password string) (*nats.Conn, chan error) {
		t.Helper()
		refusals := make(chan error, 100)
		nc, err := cluster.Connect(c.URL, "", nats.UserInfo(name, password),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc, refusals
	}
	c.Conn, _ = connect("cli", "cl1")
	c.Client = cluster.NewClient(c.Conn)
	c.StartWorker("w1", "--nats-user", "worker", "--nats-password-file", write("worker.pw", "w0rk\n"))

	screen, refusals := connect("screen", "scr33n")
	seen := make(chan *nats.Msg, 1000)
	for _, subject := range []string{"gantry.v1.progress.>", "gantry.v1.progress.*.*", "gantry.v1.event.>", "gantry.v1.>", ">", "$KV.>", "_INBOX.>"} {
		if _, err := screen.ChanSubscribe(subject, seen); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"gantry.v1.api.models", "gantry.v1.progress.x.y", "$KV.gantry-models.m", "$JS.API.STREAM.LIST"} {
		if err := screen.PublishRequest(subject, "answer", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	client, _ := connect("cli", "cl1")
	for _, subject := range []string{"$KV.gantry-models.m", "$JS.API.STREAM.DELETE.KV_gantry-jobs", "gantry.v1.progress.x.y"} {
		if err := client.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	// A command over this user's rights does all that it has to.
	uri := stories(t, "hf-f32", "", 1).URI
	var j messages.Job
	load := command(t, 0, "load", uri, "--name", "m", "--server", c.URL, "--json", "--nats-user", "cli", "--nats-password-file", write("cli.pw", "cl1"))
	if err := json.Unmarshal(load, &j); err != nil || j.State != messages.StateReady {
		t.Fatalf("%s, %v", j.State, err)
	}
	c.Until("progress of the load is seen", func() bool { return len(seen) > 0 })
	for len(seen) > 0 {
		if m := <-seen; !strings.HasPrefix(m.Subject, "gantry.v1.progress."+j.Job+".") {
			t.Errorf("a progress user sees %s", m.Subject)
		}
	}
	const want = 5 + 4 // of the screen: subscriptions and messages
	c.Until("all that is not allowed is refused", func() bool { return len(refusals) >= want })
	if models, err := c.Client.Models(t.Context()); err != nil || len(models) != 1 {
		t.Errorf("models %v, %v", models, err)
	}
	c.Until("it is counted", func() bool { return c.Coordinator.metric(t, "gantry_control_refused") >= want+3 })
	if c.Coordinator.find("Violation") == "" {
		t.Error("the coordinator logs nothing of it")
	}
	for _, who := range [][]string{nil, {"--nats-user", "cli", "--nats-password-file", write("wrong.pw", "guess")}} {
		command(t, 6, append([]string{"models", "--server", c.URL}, who...)...)
	}
	p := Begin(t, filepath.Join(bin, "coordinator"), "coordinator", "--nats-users", write("bad.yaml", "users: [{name: x, password: y, role: king}]"), "--nats-listen", "127.0.0.1:0")
	if code := p.Wait(); code != 2 || !strings.Contains(p.Last(), "king") {
		t.Errorf("exit %d: %s", code, p.Last())
	}
}

// answers is an actor that keeps what it is told.
type answers struct {
	mu  sync.Mutex
	all []proto.Message
}

func (a *answers) Receive(c actor.Context) {
	if m, ok := c.Message().(proto.Message); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.all = append(a.all, m)
	}
}

func (a *answers) take() []proto.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// TestForgedCommands: what nobody who leads has sent is refused by a worker,
// logged and counted, and what it holds stays.
func TestForgedCommands(t *testing.T) {
	c := StartCluster(t, bin, 1)
	q := stories(t, "hf-f32", "held", 1)
	j := c.Load(q)
	if j.State != messages.StateReady {
		t.Fatal(j.Why)
	}
	worker, w := c.MustWorkers()[0], c.Workers["w1"]
	held := w.arenas(t)

	system := actor.NewActorSystem()
	forger := remote.NewRemote(system, remote.Configure("127.0.0.1", 0))
	forger.Start()
	defer forger.Shutdown(false)
	heard := &answers{}
	self := system.Root.Spawn(actor.PropsFromProducer(func() actor.Actor { return heard }))
	good := func() *control.Header {
		return &control.Header{Version: control.Version, Job: q.Job, Epoch: j.Epoch, Worker: worker.Name, Incarnation: worker.Incarnation}
	}
	with := func(change func(*control.Header)) *control.Header {
		h := good()
		change(h)
		return h
	}
	hold := &control.Hold{Rank: 0, Generation: 1, Device: "cpu"}
	for name, forged := range map[string]struct {
		message proto.Message
		class   recovery.Class
		text    string
	}{
		"another version": {&control.CloseJob{Header: with(func(h *control.Header) { h.Version = 99 })}, recovery.Unsupported, "version 99"},
		"an old epoch":    {&control.CloseJob{Header: with(func(h *control.Header) { h.Epoch-- })}, recovery.Stale, "epoch"},
		"a later epoch":   {&control.Hello{Header: with(func(h *control.Header) { h.Epoch++ })}, recovery.Stale, "has not begun"},
		"another life":    {&control.CloseJob{Header: with(func(h *control.Header) { h.Incarnation-- })}, recovery.Stale, "life"},
		"an unknown job":  {&control.Place{Header: with(func(h *control.Header) { h.Job = "unknown" }), Hold: hold, Bytes: 1 << 20}, recovery.Stale, "unknown"},
		"too large":       {&control.OpenIndex{Header: good(), Uri: strings.Repeat("x", 100<<10)}, recovery.Usage, "102"},
	} {
		before := w.metric(t, "gantry_control_refused")
		heard.take()
		system.Root.RequestWithCustomSender(actor.NewPID(worker.Address, "worker/"+worker.Name), forged.message, self)
		var refused *control.Refused
		c.Until(name+" is refused", func() bool {
			for _, m := range heard.take() {
				if r, ok := m.(*control.Refused); ok {
					refused = r
				}
			}
			return refused != nil
		})
		if err := refused.GetError().Recover(); recovery.ClassOf(err) != forged.class || !strings.Contains(err.Error(), forged.text) {
			t.Errorf("%s: class %s: %v", name, recovery.ClassOf(err), err)
		}
		if n := w.metric(t, "gantry_control_refused"); n != before+1 {
			t.Errorf("%s: counted %.0f times", name, n-before)
		}
	}
	if w.find("msg=refused") == "" {
		t.Error("the worker logs nothing of it")
	}
	if n := w.arenas(t); n != held {
		t.Errorf("the worker holds %.0f bytes, before %.0f", n, held)
	}
	if again := c.Load(stories(t, "hf-f32", "again", 1)); again.State != messages.StateReady {
		t.Errorf("%s: %s", again.State, again.Why)
	}
}

// TestAnotherRelease: a worker of another release is listed and never used, and
// a load says so, with both versions.
func TestAnotherRelease(t *testing.T) {
	dir := t.TempDir()
	args := []string{"build", "-o", dir + "/", "-ldflags", "-X github.com/gantry-ml/gantry/cmd/internal/version.Version=v9.9.9", "github.com/gantry-ml/gantry/cmd/worker"}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	c := StartCluster(t, bin, 0)
	here := c.bin
	c.bin = dir
	c.StartWorker("other")
	c.bin = here
	j := c.Load(stories(t, "hf-f32", "alone", 1))
	if j.State != messages.StateFailed || j.Class != recovery.OutOfCapacity || !strings.Contains(j.Why, `"v9.9.9"`) || !strings.Contains(j.Why, "coordinator c1 version") {
		t.Errorf("%s, class %s: %s", j.State, j.Class, j.Why)
	}
	c.StartWorker("same")
	q := stories(t, "hf-f32", "both", 2)
	q.WaitWorkers, q.WaitSeconds = 1, 10
	end := c.Load(q)
	if end.State != messages.StateReady || end.Ranks[0].Worker != "same" || end.Ranks[1].Worker != "same" {
		t.Errorf("%s, %+v: %s", end.State, end.Ranks, end.Why)
	}
}
