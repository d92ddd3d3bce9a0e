package integration

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gantry-ml/gantry/internal/cluster"
)

// natsProcess is the environment variable that makes a NATS server of a test
// binary: it holds the address and the folder of its state.
const natsProcess = "GANTRY_TEST_NATS"

// serveNATS runs a NATS server until the process is told to stop.
func serveNATS() int {
	listen, dir, _ := strings.Cut(os.Getenv(natsProcess), " ")
	server, err := cluster.StartServer(cluster.ServerOptions{Listen: listen, StateDir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "nats ready: url=%s\n", server.URL())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// NATS is a NATS server of its own, a process that can die and come back.
type NATS struct {
	*Process
	URL string

	t   testing.TB
	dir string
}

// StartNATS starts a server with an empty store.
func StartNATS(t testing.TB) *NATS {
	t.Helper()
	n := &NATS{t: t, dir: t.TempDir()}
	n.start("127.0.0.1:0")
	return n
}

// Restart starts it again, where it was and with what it had stored.
func (n *NATS) Restart() {
	n.t.Helper()
	n.start(strings.TrimPrefix(n.URL, "nats://"))
}

// Replace starts it again where it was, with an empty store: its disk was lost.
func (n *NATS) Replace() {
	n.t.Helper()
	n.dir = n.t.TempDir()
	n.Restart()
}

func (n *NATS) start(listen string) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	n.Process = Launch(n.t, "env", "nats", natsProcess+"="+listen+" "+n.dir, self)
	n.URL = n.Ready["url"]
}

// StartWith starts a cluster of n workers over a NATS server of its own, with
// the named coordinators. The first of them leads.
func StartWith(t testing.TB, bin string, nats *NATS, workers int, coordinators ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, bin: bin, URL: nats.URL, Workers: map[string]*Process{}, Coordinators: map[string]*Process{}}
	var err error
	if c.Conn, err = cluster.Connect(c.URL, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Conn.Close)
	c.Client = cluster.NewClient(c.Conn)
	for _, name := range coordinators {
		c.StartCoordinator(name)
	}
	for i := range workers {
		c.StartWorker(fmt.Sprintf("w%d", i+1))
	}
	return c
}

// StartCoordinator adds a coordinator, or starts one of a name again. The first
// one leads when it returns.
func (c *Cluster) StartCoordinator(name string) {
	c.t.Helper()
	p := Launch(c.t, filepath.Join(c.bin, "coordinator"), name, "--name", name, "--nats", c.URL, "--http", "127.0.0.1:0")
	if len(c.Coordinators) == 0 {
		c.Until(name+" leads", func() bool { return p.find("msg=leading") != "" })
	}
	c.Coordinators[name] = p
}

// Leads returns the coordinator that began to lead last, by what they say.
func (c *Cluster) Leads() *Process {
	c.t.Helper()
	var leads *Process
	var since string
	for _, p := range c.Coordinators {
		if line := p.findLast("msg=leading"); line > since {
			leads, since = p, line // lines begin with their time
		}
	}
	return leads
}
