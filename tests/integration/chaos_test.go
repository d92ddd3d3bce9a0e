package integration

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// TestChaos loads small models with layouts, schemes and faults drawn from a
// seed: GANTRY_CHAOS_SEED, and GANTRY_CHAOS_LOADS of them. Whatever happens, a
// load ends ready with the bytes that it has when nothing happens, reads no
// more than what was lost, and leaves nothing behind. A trial is drawn from
// the seed and its number alone, so GANTRY_CHAOS_FIRST goes on at a later one.
func TestChaos(t *testing.T) {
	seed, first, loads := env(t, "GANTRY_CHAOS_SEED", 1), env(t, "GANTRY_CHAOS_FIRST", 0), env(t, "GANTRY_CHAOS_LOADS", 3)
	s := newStorm(t)
	for _, k := range kept {
		s.run(draw(k.seed, k.number))
	}
	for i := range loads {
		s.run(draw(seed, first+i))
	}
	s.checkLeaks()
}

// kept are trials that once failed.
var kept = []struct{ seed, number uint64 }{
	{3, 16}, // the worker that reads the headers is killed
}

// env reads a number from the environment.
func env(t *testing.T, name string, or uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return or
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, s)
	}
	return n
}

// chaosWorkers is how many workers a storm has. Each has room for every rank,
// so that a load may always end ready.
const chaosWorkers = 4

// trial is one load, and what goes wrong.
type trial struct {
	name    string
	variant string
	options shard.Options
	remote  bool // over HTTP, else a folder
	flaky   int  // of 100 answers of the source fail
	faults  []fault
	seed    uint64 // of the source's faults
}

// fault is something that happens once a share of the chunks is done: at 1
// the ranks are being sealed.
type fault struct {
	at     float64
	what   what
	victim int // numbers workers; holder is who holds the first rank
	length time.Duration
}

const holder = -1

type what string

const (
	kill        what = "kill"
	freeze      what = "freeze"
	restart     what = "kill the coordinator"
	freezeChief what = "freeze the coordinator"
)

func (f fault) String() string {
	who := ""
	switch {
	case f.what == restart, f.what == freezeChief:
	case f.victim == holder:
		who = " a holder"
	default:
		who = fmt.Sprintf(" w%d", f.victim+1)
	}
	return fmt.Sprintf("%s%s at %.0f %% for %s", f.what, who, 100*f.at, f.length)
}

func (x trial) String() string {
	return fmt.Sprintf("%s: %s as %s, %s, remote %t, %d %% of answers fail, faults %v", x.name, x.variant, x.options.Scheme, x.options.Layout, x.remote, x.flaky, x.faults)
}

// draw makes trial number n of a seed.
func draw(seed, n uint64) trial {
	r := rand.New(rand.NewPCG(seed, n))
	x := trial{
		name:    fmt.Sprintf("seed%d-%d", seed, n),
		variant: pick(r, "hf-f32", "hf-bf16", "hf-f16", "hf-sharded"),
		options: shard.Options{
			Layout:     shard.Layout{TP: pick(r, 1, 2, 4), PP: pick(r, 1, 1, 2), DP: pick(r, 1, 1, 2)},
			Scheme:     pick(r, "none", "f16", "int8", "q8_0", "q4_0", "nf4", "fp8_e4m3"),
			ChunkBytes: shard.MinChunkBytes,
		},
		remote: r.IntN(2) == 0,
		seed:   r.Uint64(),
	}
	if x.remote {
		x.flaky = pick(r, 0, 0, 10, 30)
	}
	for range r.IntN(3) {
		x.faults = append(x.faults, fault{
			at:     float64(r.IntN(20)) / 20,
			what:   pick(r, kill, kill, freeze, restart, freezeChief),
			victim: r.IntN(chaosWorkers),
			length: pick(r, 0, 500*time.Millisecond, 4*time.Second), // the lease is 2 s
		})
	}
	slices.SortStableFunc(x.faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return x
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// storm is a cluster that trials run on.
type storm struct {
	*Cluster
	t    *testing.T
	calm map[string]messages.Job // loads without faults, by what is loaded
}

func newStorm(t *testing.T) *storm {
	s := &storm{Cluster: &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}, t: t, calm: map[string]messages.Job{}}
	s.Lasting(t.TempDir())
	for i := range chaosWorkers {
		s.start(i)
	}
	return s
}

// start starts a worker. Half of them send pieces over TCP, as workers of
// several machines do.
func (s *storm) start(i int) {
	s.t.Helper()
	args := []string{"--allow-host", "127.0.0.1"}
	if i%2 == 1 {
		args = append(args, "--peer-stream")
	}
	s.StartWorker(fmt.Sprintf("w%d", i+1), args...)
}

// run makes a trial and checks what came of it.
func (s *storm) run(x trial) {
	s.t.Helper()
	s.t.Log(x)
	q := messages.LoadRequest{
		Job: x.name, Name: x.name, URI: filepath.Join(Testdata(s.t), "stories260K", x.variant), Options: x.options, Once: true,
	}
	want := s.reference(q)
	q.LimitRate = 192 << 10
	if x.remote {
		server := flakySource(q.URI, x)
		defer server.Close()
		q.URI = server.URL + "/"
	}
	j := s.Submit(q)
	for _, f := range x.faults {
		s.strike(j.Job, f)
	}
	s.judge(x, s.Await(j.Job), want)
	s.calmDown()
}

// reference loads the same without faults, once.
func (s *storm) reference(q messages.LoadRequest) messages.Job {
	s.t.Helper()
	key := fmt.Sprintf("%s %s %s", q.URI, q.Options.Layout, q.Options.Scheme)
	if _, ok := s.calm[key]; !ok {
		q.Job, q.Name = "calm-"+q.Job, "calm-"+q.Name
		j := s.Load(q)
		if j.State != messages.StateReady || j.ReadAmplification != 1 {
			s.t.Fatalf("without faults: %s, amplification %g: %s", j.State, j.ReadAmplification, j.Why)
		}
		s.calm[key] = j
	}
	return s.calm[key]
}

// losesWorkers reports whether a worker may be lost.
func (x trial) losesWorkers() bool {
	return slices.ContainsFunc(x.faults, func(f fault) bool { return f.what == kill || f.what == freeze })
}

// strike waits until enough is done, and lets a fault happen.
func (s *storm) strike(id string, f fault) {
	s.t.Helper()
	var j messages.Job
	s.Until("it is time to "+f.String(), func() bool {
		j = s.Status(id)
		return j.State.Final() || float64(j.Counters.ChunksDone) >= f.at*float64(max(j.Counters.ChunksTotal, 1))
	})
	if f.victim == holder {
		if _, err := fmt.Sscanf(j.Ranks[0].Worker, "w%d", &f.victim); err != nil {
			s.t.Fatalf("rank 0 is at %q: %v", j.Ranks[0].Worker, err)
		}
		f.victim--
	}
	victim := s.Workers[fmt.Sprintf("w%d", f.victim+1)]
	switch f.what {
	case kill:
		victim.Kill()
		time.Sleep(f.length)
		s.start(f.victim)
	case restart:
		s.Coordinator.Kill()
		s.Conn.Close()
		time.Sleep(f.length)
		s.Restart()
	case freeze:
		victim.Freeze(f.length)
	case freezeChief:
		s.Coordinator.Freeze(f.length)
	}
}

// judge checks the end of a trial against that of the load without faults.
func (s *storm) judge(x trial, end, want messages.Job) {
	s.t.Helper()
	if end.State != messages.StateReady {
		s.t.Fatalf("%s: %s: %s", x.name, end.State, end.Why)
	}
	for i, r := range end.Ranks {
		if r.Digest == "" || r.Digest != want.Ranks[i].Digest {
			s.t.Errorf("%s: rank %d has digest %q, without faults %q", x.name, i, r.Digest, want.Ranks[i].Digest)
		}
	}
	// Each fault costs at most what was read until then; failed reads cost
	// what they had read. What a worker read and had no time to tell is missing
	// in the sum, where its pieces lie at others.
	switch again := end.BytesRead - want.BytesRead; {
	case again < 0 && !x.losesWorkers():
		s.t.Errorf("%s: %d bytes were read, %d are needed", x.name, end.BytesRead, want.BytesRead)
	case again > 0 && len(x.faults) == 0 && x.flaky == 0:
		s.t.Errorf("%s: %d bytes were read again though nothing went wrong", x.name, again)
	case again > int64(len(x.faults))*want.BytesRead+int64(end.Retries)*x.options.ChunkBytes*2:
		s.t.Errorf("%s: %d bytes were read again after %d faults and %d retries", x.name, again, len(x.faults), end.Retries)
	}
}

// calmDown waits until every worker is back and has all its memory.
func (s *storm) calmDown() {
	s.t.Helper()
	var last []messages.Worker
	s.Until("everything is free", func() bool {
		last = s.MustWorkers()
		for _, w := range last {
			if len(w.Devices) != 1 || w.Devices[0].Free != 256<<20 {
				return false
			}
		}
		return len(last) == chaosWorkers
	})
}

// checkLeaks: after a storm no worker has a file of a model open.
func (s *storm) checkLeaks() {
	s.t.Helper()
	for name, p := range s.Workers {
		dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.Contains(to, "stories260K") {
				s.t.Errorf("%s has %s open", name, to)
			}
		}
	}
}

// flakySource serves a folder, and fails some answers in one of four ways.
func flakySource(dir string, x trial) *httptest.Server {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(x.seed, 0))
	files := http.FileServer(http.Dir(dir))
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		fails, how := r.IntN(100) < x.flaky, r.IntN(4)
		mu.Unlock()
		if !fails || !strings.HasSuffix(q.URL.Path, ".safetensors") {
			files.ServeHTTP(w, q)
			return
		}
		switch how {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			panic(http.ErrAbortHandler) // the connection is reset
		case 3:
			files.ServeHTTP(&cutShort{ResponseWriter: w, left: 10_000}, q)
		}
	}))
}

// cutShort breaks the connection after some bytes.
type cutShort struct {
	http.ResponseWriter
	left int
}

func (c *cutShort) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}
