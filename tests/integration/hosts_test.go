package integration

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// movesWithin is how soon the ranks of a host that is cut off are elsewhere:
// its lease, and some.
const movesWithin = 3 * time.Second

// certificates makes some for the hosts as a user does, and returns the flags
// that name them and a client's configuration.
func certificates(t *testing.T, hosts ...*Host) (flags []string, client *tls.Config) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	args := []string{"certs", "init", dir}
	for _, h := range hosts {
		args = append(args, "--host", h.Addr)
	}
	if out, err := exec.Command(filepath.Join(bin, "gantry"), args...).CombinedOutput(); err != nil {
		t.Fatalf("certs init: %v: %s", err, out)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	pem, err := os.ReadFile(file("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(file("client.pem"), file("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return []string{"--tls-cert", file("node.pem"), "--tls-key", file("node.key"), "--tls-ca", file("ca.pem")},
		&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// clusterOn starts a coordinator on one of two hosts, with certificates, and
// connects to it from there. Its workers need the flags in chief too.
func clusterOn(t *testing.T, a, b *Host, args ...string) *Cluster {
	t.Helper()
	flags, client := certificates(t, a, b)
	c := &Cluster{t: t, bin: bin, Workers: map[string]*Process{}, chief: flags}
	c.Coordinator = a.Launch(filepath.Join(bin, "coordinator"), "coordinator",
		append(append(flags, "--nats-listen", a.Addr+":0", "--listen", a.Addr+":0", "--http", "127.0.0.1:0", "--state-dir", t.TempDir()), args...)...)
	c.URL = c.Coordinator.Ready["nats"]
	var err error
	if c.Conn, err = cluster.Connect(c.URL, "", nats.SetCustomDialer(a), nats.Secure(client)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Conn.Close)
	c.Client = cluster.NewClient(c.Conn)
	return c
}

// TestHosts: workers of two hosts load a model together, with certificates on
// every way between them. One host's cable is pulled in the middle of a load:
// its ranks move, and the load ends ready.
func TestHosts(t *testing.T) {
	a, b := TwoHosts(t)
	c := clusterOn(t, a, b)
	for _, w := range []struct {
		name, memory string
		host         *Host
	}{{"near", "256MiB", a}, {"far", "512MiB", b}, {"spare", "128MiB", a}} { // the one with most room gets a rank first
		c.Workers[w.name] = w.host.Launch(filepath.Join(bin, "worker"), w.name,
			append(c.chief, "--nats", c.URL, "--name", w.name, "--memory", w.memory, "--listen", w.host.Addr+":0", "--http", "127.0.0.1:0")...)
	}
	c.Until("all workers are there", func() bool { return len(c.MustWorkers()) == 3 })
	q := stories(t, "hf-f32", "together", 2)
	want := alone(t, q)
	whole := c.Load(once(q))
	if whole.State != messages.StateReady {
		t.Fatalf("%s: %s", whole.State, whole.Why)
	}
	if got := digestsOf(whole); !slices.Equal(got, want) {
		t.Errorf("digests %v, alone %v", got, want)
	}

	j := c.Submit(slow(t, "cut", 2))
	at := -1 // a rank of the far host
	c.Until("something is placed", func() bool {
		s := c.Status(j.Job)
		at = slices.IndexFunc(s.Ranks, func(r messages.Rank) bool { return r.Worker == "far" && r.BytesDone > 0 })
		return at >= 0 || s.State.Final()
	})
	if at < 0 {
		t.Fatal("the load ended, and nothing was placed at the far host")
	}
	b.Plug(false)
	cut := time.Now()
	end := c.Await(j.Job)
	if end.State != messages.StateReady {
		t.Fatalf("%s: %s", end.State, end.Why)
	}
	if slices.ContainsFunc(end.Ranks, func(r messages.Rank) bool { return r.Worker == "far" }) {
		t.Errorf("ranks %+v: one is at the host that is cut off", end.Ranks)
	}
	moved := events(t, c, j.Job)[progress.RankMoved]
	if len(moved) == 0 {
		t.Fatal("no rank has moved")
	}
	if after := moved[0].Time.Sub(cut); after > movesWithin+slack {
		t.Errorf("the first rank moved %v after the cut, want %v", after, movesWithin)
	}
	b.Plug(true)
	c.Until("the host that was cut off is back", func() bool { return len(c.MustWorkers()) == 3 })
}

func digestsOf(j messages.Job) (d []string) {
	for _, r := range j.Ranks {
		d = append(d, r.Digest)
	}
	return d
}
