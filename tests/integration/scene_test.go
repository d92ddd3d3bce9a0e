package integration

import (
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

const (
	sceneChunk   = 64 << 10 // bytes
	sceneStaging = 1 << 20  // bytes, of each worker
	// inFlight is what may be under way when something is struck, and be read
	// again: what four workers are given at once, half of their staging.
	inFlight = 4 * sceneStaging / 2
)

// scene is a cluster that is struck again and again, each time during another
// load of the same checkpoint, which comes from a server that counts what it
// sends.
type scene struct {
	*Cluster
	t      *testing.T
	tap    *tap
	want   messages.Job                      // the load that nobody disturbed
	first  int64                             // stored bytes of the chunks with a piece in the first rank
	last   map[int64]bool                    // where in the file the last of them begin, which have under a twentieth of it
	calm   map[*Process]usage                // what processes used after that
	launch func(name string, args ...string) // starts a worker of a name, with more arguments
	names  []string                          // of the workers
}

// newScene starts a coordinator that can be restarted and workers w1 to w4 on
// loopback.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{Cluster: &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}, t: t, names: []string{"w1", "w2", "w3", "w4"}}
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.tap = newTap(t, at, eightMiB(t))
	s.Lasting(t.TempDir(), "--inject", coordinatorMoments)
	s.launch = func(name string, more ...string) {
		args := append([]string{"--allow-host", "127.0.0.1", "--staging", fmt.Sprint(sceneStaging), "--inject", workerMoments}, more...)
		if name > "w2" { // as on other machines
			args = append(args, "--peer-stream")
		}
		s.StartWorker(name, args...)
	}
	for _, name := range s.names {
		s.launch(name)
	}
	s.settle()
	return s
}

// settle makes a load without a disturbance, which the others are held against.
func (s *scene) settle() {
	s.t.Helper()
	q := s.request("calm")
	q.LimitRate, q.Once = 0, true
	s.want = s.Load(q)
	if s.want.State != messages.StateReady || s.want.ReadAmplification != 1 {
		s.t.Fatalf("undisturbed: %s, amplification %g: %s", s.want.State, s.want.ReadAmplification, s.want.Why)
	}
	s.first, s.last = firstRank(s.t, q.Options)
	if n := s.tap.served.Load(); n != s.needed() {
		s.t.Fatalf("undisturbed, %d bytes left the source, %d are needed", n, s.needed())
	}
	s.clear()
	s.calm = map[*Process]usage{}
	for _, p := range s.processes() {
		s.calm[p] = p.usage(s.t)
	}
}

// needed is how many bytes of the source a load needs.
func (s *scene) needed() int64 { return s.want.Counters.BytesToRead }

// request is the load: two ranks, some seconds.
func (s *scene) request(id string) messages.LoadRequest {
	return messages.LoadRequest{
		Job: id, Name: "m-" + id, URI: s.tap.URL, LimitRate: 1 << 20, WaitWorkers: len(s.names), WaitSeconds: 30,
		Options: shard.Options{Layout: shard.Layout{TP: 2}, ChunkBytes: sceneChunk},
	}
}

// blow is what happens to a cluster during a load.
type blow struct {
	name string
	// strike does it, and undoes it; before is how the load stood then.
	strike func(s *scene, before messages.Job)
	// What of it is lost: nothing; perhaps, or certainly, the first rank.
	mayLose, loses bool
}

// run lets a blow happen at a moment of a load and checks what comes of it.
func (s *scene) run(b blow, m moment) {
	s.t.Helper()
	q := s.request(fmt.Sprintf("%s-%s", b.name, m))
	start, release := time.Now(), func() {}
	switch m {
	case at95:
		release = s.tap.hold(s.last)
	case seals:
		q.LimitRate *= 4
	case swaps, ends:
		q.LimitRate *= 4
		old := q
		old.Job, old.LimitRate = q.Job+"-old", 0
		old.Options.Scheme = "q8_0" // nothing of it is of use to the new one
		if j := s.Load(old); j.State != messages.StateReady {
			s.t.Fatalf("%s: %s: %s", old.Job, j.State, j.Why)
		}
	}
	s.tap.served.Store(0)
	if m == swaps || m == ends {
		if _, err := s.Client.Swap(s.t.Context(), q); err != nil {
			s.t.Fatal(err)
		}
	} else {
		q.Once = true
		s.Submit(q)
	}
	before := s.meet(s.t, q.Job, m)
	time.AfterFunc(momentLasts, release)
	b.strike(s, before)
	end := s.Await(q.Job)
	s.judge(b, before, end)
	s.whole(q)
	s.count(b, m, before)
	s.clear()
	s.t.Logf("%s: %.1f s, %d of %d bytes read, %d retries", q.Job, time.Since(start).Seconds(), s.tap.served.Load(), s.needed(), end.Retries)
}

// judge checks how a load ended.
func (s *scene) judge(b blow, before, end messages.Job) {
	s.t.Helper()
	if end.State != messages.StateReady {
		s.t.Errorf("%s: %s: %s", end.Job, end.State, end.Why)
		return
	}
	if got, want := digestsOf(end), digestsOf(s.want); !slices.Equal(got, want) {
		s.t.Errorf("%s: digests %v, undisturbed %v", end.Job, got, want)
	}
	if !b.loses && !b.mayLose {
		for i, r := range end.Ranks {
			if r.Worker != before.Ranks[i].Worker {
				s.t.Errorf("%s: rank %d was at %s and is at %s", end.Job, i, before.Ranks[i].Worker, r.Worker)
			}
		}
	}
}

// count checks what left the source.
func (s *scene) count(b blow, m moment, before messages.Job) {
	s.t.Helper()
	least, most := s.needed(), s.needed()
	if m.share() > 0 {
		most += inFlight
	}
	if b.loses && m != swaps && m != ends { // there the load needs no worker any more, and its model may be repaired in time or not
		least += before.Ranks[0].BytesDone // it is stored as it is placed
	}
	if b.loses || b.mayLose {
		most += s.first
		if m == swaps {
			most += s.first // the old model is still the current one, and is repaired as well
		}
	}
	if n := s.tap.served.Load(); n < least || n > most {
		s.t.Errorf("%s: %d bytes left the source, want %d to %d; %d were read and %d placed in rank 0 when it was struck",
			before.Job, n, least, most, before.BytesRead, before.Ranks[0].BytesDone)
	}
}

// whole checks that what is held is what the resident models have: at most one,
// with all its ranks.
func (s *scene) whole(q messages.LoadRequest) {
	s.t.Helper()
	var held, listed float64
	var models []messages.Model
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s: %.0f bytes are held, %.0f are models': %+v", q.Job, held, listed, models)
		}
	}()
	s.Until("what is held is what models have", func() bool {
		if len(s.MustWorkers()) < len(s.names) {
			return false
		}
		held, listed = 0, 0
		for _, w := range s.Workers {
			held += w.arenas(s.t)
		}
		models = ask(s.Cluster, s.Client.Models)
		for _, m := range models {
			if m.State != messages.StateReady {
				return false // it is being repaired
			}
			listed += arenaBytes(m)
		}
		return held == listed
	})
	for _, m := range models {
		if m.Name != q.Name || len(models) > 1 {
			s.t.Errorf("%s: resident are %+v", q.Job, models)
		}
		for i, r := range m.Ranks {
			if m.Job == q.Job && r.Digest != s.want.Ranks[i].Digest {
				s.t.Errorf("%s: the model has rank %+v", q.Job, r)
			}
		}
	}
}

// clear unloads what is resident and waits until all memory is free.
func (s *scene) clear() {
	s.t.Helper()
	for _, m := range ask(s.Cluster, s.Client.Models) {
		// It may be found to have lost a worker in this moment.
		if _, err := s.Client.Unload(s.t.Context(), m.Name); err != nil && recovery.ClassOf(err) != recovery.NotFound {
			s.t.Errorf("unload %s: %v", m.Name, err)
		}
	}
	s.Until("everything is free", func() bool {
		all := s.MustWorkers()
		return len(all) == len(s.names) && !slices.ContainsFunc(all, func(w messages.Worker) bool {
			return s.Workers[w.Name].arenas(s.t) != 0
		})
	})
}

func (s *scene) processes() []*Process {
	all := []*Process{s.Coordinator}
	for _, name := range s.names {
		all = append(all, s.Workers[name])
	}
	return all
}

// usage is what a process has of the system.
type usage struct {
	goroutines, files int
	memory            int64 // anonymous and shared, resident, bytes
}

// What a process may have more of after a matrix than after its first load:
// connections and what serves them come and go.
var most = usage{goroutines: 20, files: 12, memory: 64 << 20}

func (p *Process) usage(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return usage{int(p.metric(t, "go_goroutines")), len(fds), residentMemory(p.cmd.Process.Pid)}
}

// again starts a worker anew with other arguments.
func (s *scene) again(name string, args ...string) {
	s.t.Helper()
	s.Workers[name].Kill()
	s.launch(name, args...)
}

// checkLeaks checks that the processes that were there all the time have no more
// of anything than at the start.
func (s *scene) checkLeaks() {
	s.t.Helper()
	for _, p := range s.processes() {
		was, ok := s.calm[p]
		if !ok {
			continue // it was started later
		}
		var now usage
		limit := time.Now().Add(jobLimit)
		for {
			now = p.usage(s.t)
			if now.goroutines <= was.goroutines+most.goroutines && now.files <= was.files+most.files && now.memory <= was.memory+most.memory {
				break
			}
			if time.Now().After(limit) {
				s.t.Errorf("%s has no less than %+v", p.Name, now)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		s.t.Logf("%s had %+v and has %+v", p.Name, was, now)
	}
}
