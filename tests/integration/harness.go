// Package integration tests whole clusters: real processes, real NATS, real
// faults. Its harness builds the daemons, starts them on free ports and ends
// them with the test.
package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// How long the harness waits.
const (
	readyLimit = 30 * time.Second // for a process to say that it is ready
	stopLimit  = 20 * time.Second // for a process to stop when it is told to
	jobLimit   = 60 * time.Second // for a job to end
)

// slack is what a machine that is busy with other things too may add to a time
// that the product promises.
const slack = 3 * time.Second

// Build builds the commands into a folder that done removes, with the race
// detector where the test has it too. GANTRY_BIN names a folder where they are
// built already.
func Build() (dir string, done func(), err error) {
	if dir := os.Getenv("GANTRY_BIN"); dir != "" {
		return dir, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "gantry-bin-")
	if err != nil {
		return "", nil, err
	}
	done = func() { os.RemoveAll(dir) }
	if err := build(dir, invariants.Enabled, "gantry", "coordinator", "worker"); err != nil {
		done()
		return "", nil, err
	}
	return dir, done, nil
}

// build builds commands into a folder.
func build(dir string, race bool, names ...string) error {
	args := []string{"build", "-o", dir + "/"}
	if race {
		args = append(args, "-race")
	}
	for _, n := range names {
		args = append(args, "github.com/gantry-ml/gantry/cmd/"+n)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", names, err, out)
	}
	return nil
}

// Testdata returns the folder of the shared test data: GANTRY_TESTDATA, or
// shared/testdata beside the repository.
func Testdata(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("GANTRY_TESTDATA"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if at := filepath.Join(dir, "shared", "testdata"); isDir(at) {
			return at
		}
	}
	t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds stories260K")
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Process is a running command.
type Process struct {
	Name  string
	Ready map[string]string // what its ready line says: "nats", "actors", …

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}                                                        // closed when it has ended
	dial func(ctx context.Context, network, address string) (net.Conn, error) // connects where it is reached; nil: from here

	mu  sync.Mutex
	log []string // its stderr
}

// Launch starts a command and waits for its ready line. It is killed at the
// end of the test if it still runs.
func Launch(t testing.TB, bin, name string, args ...string) *Process {
	t.Helper()
	p := Begin(t, bin, name, args...)
	select {
	case <-p.said("ready: "):
	case <-p.done:
		t.Fatalf("%s ended before it was ready", name)
	case <-time.After(readyLimit):
		t.Fatalf("%s is not ready after %s", name, readyLimit)
	}
	_, line, _ := strings.Cut(p.find("ready: "), "ready: ")
	p.Ready = map[string]string{}
	for _, word := range strings.Fields(line) {
		if k, v, ok := strings.Cut(word, "="); ok {
			p.Ready[k] = v
		}
	}
	return p
}

// Begin starts a command and does not wait.
func Begin(t testing.TB, bin, name string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name, t: t, cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.log = append(p.log, lines.Text())
			p.mu.Unlock()
		}
		p.cmd.Wait() // its outcome is in ProcessState
	}()
	t.Cleanup(func() {
		p.Kill()
		if p.find("DATA RACE") != "" {
			t.Errorf("%s has a data race", name)
		}
		if t.Failed() {
			t.Logf("%s said:\n  %s", name, strings.Join(p.log, "\n  "))
		}
	})
	return p
}

// said is closed when a line of stderr has text in it.
func (p *Process) said(text string) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		for p.find(text) == "" {
			select {
			case <-p.done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		close(c)
	}()
	return c
}

// find returns the first line of stderr that has text in it.
func (p *Process) find(text string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.log {
		if strings.Contains(l, text) {
			return l
		}
	}
	return ""
}

// findLast is find for the last such line.
func (p *Process) findLast(text string) (last string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.log {
		if strings.Contains(l, text) {
			last = l
		}
	}
	return last
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// Freeze stops the process for a while, as a machine that hangs does.
func (p *Process) Freeze(d time.Duration) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatalf("freeze %s: %v", p.Name, err)
	}
	time.Sleep(d)
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		p.t.Fatalf("thaw %s: %v", p.Name, err)
	}
}

// Stop ends the process with SIGTERM and returns its exit code.
func (p *Process) Stop() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("stop %s: %v", p.Name, err)
	}
	return p.Wait()
}

// Wait waits until the process has ended and returns its exit code.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		p.t.Fatalf("%s does not stop within %s", p.Name, stopLimit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Last is the last line that the process wrote to stderr.
func (p *Process) Last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.log) == 0 {
		return ""
	}
	return p.log[len(p.log)-1]
}

// Cluster is a coordinator with embedded NATS, and workers, each a process on
// loopback.
type Cluster struct {
	Coordinator  *Process            // where NATS is embedded
	Coordinators map[string]*Process // where it is not
	Workers      map[string]*Process
	URL          string // of NATS
	Conn         *nats.Conn
	Client       *cluster.Client

	t     testing.TB
	bin   string
	state string   // of a coordinator that can be restarted
	chief []string // more arguments of that one
}

// Lasting starts the coordinator of a cluster, which keeps its state in a
// folder, so that Restart can start it again.
func (c *Cluster) Lasting(state string, args ...string) {
	c.t.Helper()
	c.state, c.chief, c.URL = state, args, "nats://127.0.0.1:0"
	c.Restart()
}

// Restart starts the coordinator again, at the same address, after it ended.
func (c *Cluster) Restart() {
	c.t.Helper()
	args := append([]string{"--name", "c1", "--http", "127.0.0.1:0", "--nats-listen", strings.TrimPrefix(c.URL, "nats://"), "--state-dir", c.state}, c.chief...)
	c.Coordinator = Launch(c.t, filepath.Join(c.bin, "coordinator"), "coordinator", args...)
	c.connect()
}

// connect connects to the coordinator's NATS.
func (c *Cluster) connect() {
	c.t.Helper()
	c.URL = c.Coordinator.Ready["nats"]
	conn, err := cluster.Connect(c.URL, "")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Close)
	c.Conn, c.Client = conn, cluster.NewClient(conn)
}

// StartCluster starts a cluster of n workers, w1 to wN, with the given extra
// arguments each, from the commands in the folder bin.
func StartCluster(t testing.TB, bin string, n int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}
	c.Coordinator = Launch(t, filepath.Join(bin, "coordinator"), "coordinator",
		"--name", "c1", "--nats-listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	c.connect()
	for i := range n {
		c.StartWorker(fmt.Sprintf("w%d", i+1), args...)
	}
	return c
}

// StartWorker adds a worker and waits until the coordinator knows it.
func (c *Cluster) StartWorker(name string, args ...string) *Process {
	c.t.Helper()
	args = append([]string{"--name", name, "--nats", c.URL, "--http", "127.0.0.1:0", "--memory", "256MiB"}, args...)
	p := Launch(c.t, filepath.Join(c.bin, "worker"), name, args...)
	c.Workers[name] = p
	c.Until("worker "+name+" is known", func() bool {
		for _, w := range c.MustWorkers() {
			if w.Name == name {
				return true
			}
		}
		return false
	})
	return p
}

// MustWorkers lists the workers.
func (c *Cluster) MustWorkers() []messages.Worker {
	c.t.Helper()
	return ask(c, c.Client.Workers)
}

// Until polls for a state.
func (c *Cluster) Until(what string, is func() bool) {
	c.t.Helper()
	for end := time.Now().Add(jobLimit); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// Submit submits a load.
func (c *Cluster) Submit(q messages.LoadRequest) messages.Job {
	c.t.Helper()
	return ask(c, func(ctx context.Context) (messages.Job, error) { return c.Client.Load(ctx, q) })
}

// Status returns a job as it is now.
func (c *Cluster) Status(id string) messages.Job {
	c.t.Helper()
	return ask(c, func(ctx context.Context) (messages.Job, error) { return c.Client.Status(ctx, id) })
}

// ask asks the cluster. Where nobody leads it waits for somebody.
func ask[T any](c *Cluster, question func(context.Context) (T, error)) T {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	for {
		answer, err := question(ctx)
		if err == nil {
			return answer
		}
		if recovery.ClassOf(err) != recovery.ClusterLost || ctx.Err() != nil {
			c.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Await waits until a job has ended.
func (c *Cluster) Await(id string) (j messages.Job) {
	c.t.Helper()
	c.Until("job "+id+" ends", func() bool { j = c.Status(id); return j.State.Final() })
	return j
}

// Load submits a load and waits for its end.
func (c *Cluster) Load(q messages.LoadRequest) messages.Job {
	c.t.Helper()
	return c.Await(c.Submit(q).Job)
}
