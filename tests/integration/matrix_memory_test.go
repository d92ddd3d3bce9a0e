package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/messages"
)

// capped lets the process have no more address space than it has, until the
// returned function is called: mappings, threads and growth of its heap beyond
// what it keeps in reserve fail, as where memory is full.
func (p *Process) capped(t *testing.T) (uncap func()) {
	t.Helper()
	pid := p.cmd.Process.Pid
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(statm))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	now := unix.Rlimit{Cur: pages * uint64(os.Getpagesize()), Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(pid, unix.RLIMIT_AS, &now, &before); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(pid, unix.RLIMIT_AS, &before, nil); err != nil && p.alive() {
			t.Error(err)
		}
	}
}

// alive reports whether the process has not ended.
func (p *Process) alive() bool {
	select {
	case <-p.done:
		return false
	case <-time.After(100 * time.Millisecond): // one that is ending ends
		return true
	}
}

// full caps the memory of the worker of the first rank until the load has
// ended. A worker that cannot go on without ends, and is started again.
var full = blow{name: "full", mayLose: true, strike: func(s *scene, before messages.Job) {
	name := before.Ranks[0].Worker
	w := s.Workers[name]
	uncap := w.capped(s.t)
	s.Await(before.Job)
	if uncap(); !w.alive() {
		s.t.Logf("%s: worker %s has ended: %s", before.Job, name, w.find("fatal error"))
		s.launch(name)
	}
}}

// TestMatrixFullMemory: a worker has no memory left at some moment of a load.
func TestMatrixFullMemory(t *testing.T) {
	apart(t)
	s := newScene(t)
	for _, m := range only(t, []moment{at50, at5, at95, seals, swaps}, 1) {
		s.run(full, m)
	}
	// The staging memory of one, which holds a rank, is full from when it has
	// read a share of what it will: the others read the rest.
	const reads = 64 // about what it reads by itself: 32 chunks of 64 KiB, in two steps
	for _, share := range only(t, []float64{.5, .05, .8}, 1) {
		s.again("w1", "--memory", "512MiB", "--inject", "read model.safetensors fail out_of_capacity "+fmt.Sprintf("after=%.0f", share*reads))
		s.plain(fmt.Sprintf("staging-%.0f", 100*share), func(end messages.Job) {
			if n := s.tap.served.Load(); n < s.needed() || n > s.needed()+inFlight || end.Retries == 0 {
				t.Errorf("%s: %d bytes left the source, %d are needed; %d retries", end.Job, n, s.needed(), end.Retries)
			}
		})
	}
	// The worker that a rank should move to cannot make an arena: a third can.
	s.again("w1")
	s.again("w2", "--memory", "512MiB")
	s.again("w3", "--memory", "384MiB", "--inject", "place arena-* fail out_of_capacity; "+workerMoments)
	for _, m := range only(t, []moment{at50, at5, at95, seals}, 1) {
		s.run(blow{name: "arena", loses: true, strike: func(s *scene, before messages.Job) {
			if before.Ranks[0].Worker != "w2" || before.Ranks[1].Worker == "w3" {
				t.Fatalf("ranks %+v", before.Ranks)
			}
			s.Workers["w2"].Kill()
			s.launch("w2", "--memory", "512MiB")
		}}, m)
	}
	s.checkLeaks()
}

// plain makes a load that nothing strikes, and checks its end and what is left.
func (s *scene) plain(id string, check func(end messages.Job)) {
	s.t.Helper()
	q := s.request(id)
	q.Once = true
	s.tap.served.Store(0)
	end := s.Load(q)
	if end.State != messages.StateReady || !slices.Equal(digestsOf(end), digestsOf(s.want)) {
		s.t.Errorf("%s: %s: %s: digests %v, undisturbed %v", id, end.State, end.Why, digestsOf(end), digestsOf(s.want))
	}
	check(end)
	s.clear()
	s.t.Logf("%s: %.1f s", id, end.Seconds)
}
