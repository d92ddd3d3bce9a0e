package integration

import (
	"cmp"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// TestMatrixCut: the host of the worker with the first rank is cut off at each
// moment of a load: for less than a lease, for more than one, and until the
// load has ended without it. The source is on the other side.
func TestMatrixCut(t *testing.T) {
	if !whole() {
		t.Skip("TestHosts has one of these cases; all run with GANTRY_MATRIX=1, or by make test-cluster")
	}
	t.Parallel()
	a, b := TwoHosts(t)
	at, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, tap: newTap(t, at, eightMiB(t)), names: []string{"far", "near", "spare"}}
	s.Cluster = clusterOn(t, a, b, "--inject", coordinatorMoments)
	s.launch = func(name string, _ ...string) {
		host, memory := a, map[string]string{"far": "512MiB", "near": "256MiB", "spare": "128MiB"}[name] // most room gets a rank first
		if name == "far" {
			host = b
		}
		s.Workers[name] = host.Launch(filepath.Join(bin, "worker"), name, append(s.chief, "--nats", s.URL, "--name", name, "--memory", memory,
			"--listen", host.Addr+":0", "--http", "127.0.0.1:0", "--allow-host", a.Addr, "--staging", fmt.Sprint(sceneStaging), "--inject", workerMoments)...)
	}
	for _, name := range s.names {
		s.launch(name)
	}
	s.Until("all workers are there", func() bool { return len(s.MustWorkers()) == len(s.names) })
	s.settle()

	cut := func(d time.Duration) blow {
		x := blow{name: fmt.Sprintf("cut-%d", int(d.Seconds())), loses: d != time.Second, mayLose: true}
		if d == 0 {
			x.name = "cut-off"
		}
		x.strike = func(s *scene, before messages.Job) {
			if before.Ranks[0].Worker != "far" {
				t.Fatalf("the first rank is at %s", before.Ranks[0].Worker)
			}
			b.Plug(false)
			time.Sleep(cmp.Or(d, beyondLease))
			if d == 0 {
				s.Await(before.Job)
			}
			b.Plug(true)
		}
		return x
	}
	for _, x := range []blow{cut(time.Second), cut(beyondLease), cut(0)} {
		for _, m := range []moment{at5, at50, at95, seals, swaps, ends} {
			s.run(x, m)
		}
	}
	s.checkLeaks()
}
