package integration

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeebo/xxh3"
	"golang.org/x/time/rate"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// limitedSource serves the trained model at so many bytes per second in all,
// whoever asks, and counts them.
func limitedSource(t *testing.T, bytesPerSecond int) (uri string, served *atomic.Int64) {
	t.Helper()
	return limitedFolder(t, filepath.Join(Testdata(t), "stories260K", "hf-f32"), bytesPerSecond)
}

// limitedFolder is limitedSource of a folder.
func limitedFolder(t *testing.T, dir string, bytesPerSecond int) (uri string, served *atomic.Int64) {
	t.Helper()
	served = new(atomic.Int64)
	files := http.FileServer(http.Dir(dir))
	limit := rate.NewLimiter(rate.Limit(bytesPerSecond), 16<<10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(&slowWriter{w, r.Context(), limit, served}, r)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/", served
}

// slowWriter is a response whose body waits for its share of a rate.
type slowWriter struct {
	http.ResponseWriter
	ctx    context.Context
	limit  *rate.Limiter
	served *atomic.Int64
}

func (w *slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), w.limit.Burst())]
		if err = w.limit.WaitN(w.ctx, len(part)); err != nil {
			return n, err
		}
		var m int
		m, err = w.ResponseWriter.Write(part)
		w.served.Add(int64(m))
		n, p = n+m, p[m:]
	}
	return n, err
}

// replicated is a load of whole copies, in small chunks.
func replicated(id, uri string, dp int) messages.LoadRequest {
	return messages.LoadRequest{Job: id, Name: "m-" + id, URI: uri,
		Options: shard.Options{Layout: shard.Layout{DP: dp}, ChunkBytes: 64 << 10}}
}

// once is a load that leaves nothing which a later one could be filled from.
func once(q messages.LoadRequest) messages.LoadRequest {
	q.Once = true
	return q
}

// sameRanks fails the test where the copies of a model differ.
func sameRanks(t *testing.T, j messages.Job, digest string) {
	t.Helper()
	if j.State != messages.StateReady {
		t.Fatalf("%s: %s", j.State, j.Why)
	}
	for _, r := range j.Ranks {
		if r.Digest != digest {
			t.Errorf("rank %d at %s has digest %s, want %s", r.Rank, r.Worker, r.Digest, digest)
		}
	}
}

// TestFourCopies: the source gives each byte once, however many copies are
// made, and they take about as long as one.
func TestFourCopies(t *testing.T) {
	uri, served := limitedSource(t, 512<<10)
	c := StartCluster(t, bin, 4, "--allow-host", "127.0.0.1")
	one := c.Load(once(replicated("one", uri, 1)))
	sameRanks(t, one, one.Ranks[0].Digest)
	before := served.Swap(0)
	four := c.Load(replicated("four", uri, 4))
	sameRanks(t, four, one.Ranks[0].Digest)
	if four.BytesRead != one.BytesRead || four.ReadAmplification != 1 {
		t.Errorf("%d bytes read, %d for one copy; amplification %g", four.BytesRead, one.BytesRead, four.ReadAmplification)
	}
	// Beside the tensors each worker may look at the files' headers.
	if extra := served.Load() - before; extra > before/100 {
		t.Errorf("the source served %d bytes more than for one copy (%d)", extra, before)
	}
	if four.Seconds > 1.3*one.Seconds { // reading all would take four times as long
		t.Errorf("four copies took %.2f s, one %.2f s", four.Seconds, one.Seconds)
	}
	at := map[string]bool{}
	for _, r := range four.Ranks {
		at[r.Worker] = true
	}
	if len(at) != 4 {
		t.Errorf("four copies lie at %v", at)
	}
	t.Logf("one copy %.2f s, four %.2f s; served %d and %d bytes", one.Seconds, four.Seconds, before, served.Load())
}

// killed submits a load of two copies and kills the worker of one of them when
// so many chunks are placed in both. It returns who was killed.
func killed(t *testing.T, c *Cluster, q messages.LoadRequest, chunks int) (victim string) {
	t.Helper()
	j := c.Submit(q)
	c.Until("chunks are placed", func() bool {
		s := c.Status(j.Job)
		if s.State.Final() {
			t.Fatalf("the load ended before a worker could be killed: %s %s", s.State, s.Why)
		}
		if s.Counters.ChunksDone < chunks {
			return false
		}
		victim = s.Ranks[1].Worker
		return true
	})
	c.Workers[victim].Kill()
	return victim
}

// TestLostCopyIsRefilled: what a killed worker held is copied from the replica
// that is left; the source is asked again only for what was on its way.
func TestLostCopyIsRefilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	command(t, 0, "synth", dir, "--size", "8MiB")
	uri, served := limitedFolder(t, dir, 4<<20)
	c := StartCluster(t, bin, 3, "--allow-host", "127.0.0.1")
	want := c.Load(once(replicated("want", uri, 1)))
	whole := served.Swap(0)
	q := replicated("lost", uri, 2)
	victim := killed(t, c, q, want.Counters.ChunksTotal/2)
	end := c.Await(q.Job)
	sameRanks(t, end, want.Ranks[0].Digest)
	for _, r := range end.Ranks {
		if r.Worker == victim {
			t.Errorf("rank %d is at the killed worker", r.Rank)
		}
	}
	// What the victim was reading, and had read and not passed on: a worker
	// reads 16 chunks of a remote source at once, which is an eighth of these.
	// Without the replica it would be what the victim held as well, a half.
	if extra := served.Load() - whole; extra > whole/4 {
		t.Errorf("the source served %d bytes more than the model's %d", extra, whole)
	}
	t.Logf("served %d bytes of %d", served.Load(), whole)
}

// TestLateWorkerIsFilledByPeers: a worker that joins when all but one copy is
// there costs the source nothing.
func TestLateWorkerIsFilledByPeers(t *testing.T) {
	uri, served := limitedSource(t, 512<<10)
	c := StartCluster(t, bin, 2, "--allow-host", "127.0.0.1", "--cpu-ranks", "1")
	want := c.Load(once(replicated("want", uri, 1)))
	q := replicated("late", uri, 2)
	killed(t, c, q, want.Counters.ChunksTotal/2)
	c.Until("the copy that is left is whole", func() bool { return c.Status(q.Job).Ranks[0].Digest != "" })
	before := served.Load()
	c.StartWorker("late", "--allow-host", "127.0.0.1", "--cpu-ranks", "1")
	end := c.Await(q.Job)
	sameRanks(t, end, want.Ranks[0].Digest)
	// It may look at the files' headers.
	if extra := served.Load() - before; extra > 64<<10 {
		t.Errorf("the source served %d bytes for the late worker", extra)
	}
	if end.Ranks[1].Worker != "late" {
		t.Errorf("rank 1 is at %s", end.Ranks[1].Worker)
	}
}

// TestScaleOut: a model that is loaded again, for a worker that joined later,
// comes from the one that is resident, and not from the source; of another
// scheme it is another model.
func TestScaleOut(t *testing.T) {
	uri, served := limitedSource(t, 512<<10)
	args := []string{"--allow-host", "127.0.0.1", "--cpu-ranks", "1"}
	c := StartCluster(t, bin, 1, args...)
	first := c.Load(replicated("first", uri, 1))
	sameRanks(t, first, first.Ranks[0].Digest)
	c.StartWorker("late", args...)
	whole := served.Swap(0)
	q := replicated("second", uri, 1)
	q.WaitSeconds = 10
	second := c.Load(q)
	sameRanks(t, second, first.Ranks[0].Digest)
	if second.Ranks[0].Worker != "late" || second.BytesRead != 0 || second.ReadAmplification != 0 {
		t.Errorf("at %s, %d bytes read, amplification %g", second.Ranks[0].Worker, second.BytesRead, second.ReadAmplification)
	}
	if n := served.Swap(0); n > whole/10 { // headers
		t.Errorf("the source served %d bytes of %d for the second", n, whole)
	}
	c.StartWorker("later", args...)
	q.Job, q.Name, q.Options.Scheme = "third", "m-third", "f16"
	if third := c.Load(q); third.State != messages.StateReady || third.BytesRead != first.BytesRead {
		t.Errorf("%s, %d bytes read for another scheme: %s", third.State, third.BytesRead, third.Why)
	}
}

// pushed is a load of one rank that is under way at a worker, and what is
// needed to send that worker a piece of it.
type pushed struct {
	c      *Cluster
	job    messages.Job
	addr   string // where pieces are received
	ticket transfer.Ticket
	bytes  []byte
}

// slowlyLoading begins such a load and returns when its arena is there. The
// ticket is for its last piece.
func slowlyLoading(t *testing.T, c *Cluster, id string) pushed {
	t.Helper()
	q := slow(t, id, 1)
	src, err := source.Open(t.Context(), q.URI, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := shard.Build(ix, q.Options)
	if err != nil {
		t.Fatal(err)
	}
	last := plan.Chunks[len(plan.Chunks)-1]
	p := pushed{c: c, job: c.Submit(q), bytes: make([]byte, last.Pieces[0].Bytes)}
	c.Until("something is placed", func() bool {
		p.job = c.Status(id)
		if p.job.State.Final() {
			t.Fatalf("%s: %s", p.job.State, p.job.Why)
		}
		return p.job.Counters.ChunksDone > 0
	})
	for _, w := range c.MustWorkers() {
		if w.Name == p.job.Ranks[0].Worker {
			p.addr = w.Transfer
		}
	}
	p.ticket = transfer.Ticket{Job: id, Chunk: last.ID, Attempt: 1, Epoch: p.job.Epoch, Generation: 1,
		Bytes: int64(len(p.bytes)), Digest: xxh3.Hash128(p.bytes).Bytes()}
	return p
}

// push sends the piece after f has changed ticket and bytes.
func (p pushed) push(t *testing.T, f func(*transfer.Ticket, []byte)) error {
	t.Helper()
	ticket, bytes := p.ticket, slices.Clone(p.bytes)
	f(&ticket, bytes)
	pool := &transfer.Pool{}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), readyLimit)
	defer cancel()
	return pool.Send(ctx, p.addr, ticket, [][]byte{bytes})
}

// TestPiecesThatAreRefused: a piece with a flipped bit, for an arena that is
// not or no longer there, or of a coordinator or job of before is refused by
// the worker process, and the load ends as if it had never come.
func TestPiecesThatAreRefused(t *testing.T) {
	c := StartCluster(t, bin, 1)
	calm := once(slow(t, "calm", 1))
	calm.LimitRate = 0
	want := c.Load(calm)
	p := slowlyLoading(t, c, "target")
	for name, r := range map[string]struct {
		f     func(*transfer.Ticket, []byte)
		class recovery.Class
	}{
		"a flipped bit":      {func(_ *transfer.Ticket, b []byte) { b[len(b)/2] ^= 8 }, recovery.DigestMismatch},
		"an arena of before": {func(k *transfer.Ticket, _ []byte) { k.Generation-- }, recovery.Stale},
		"an arena to come":   {func(k *transfer.Ticket, _ []byte) { k.Generation++ }, recovery.Stale},
		"an old epoch":       {func(k *transfer.Ticket, _ []byte) { k.Epoch-- }, recovery.Stale},
		"an epoch to come":   {func(k *transfer.Ticket, _ []byte) { k.Epoch++ }, recovery.Stale},
		"another job":        {func(k *transfer.Ticket, _ []byte) { k.Job = "gone" }, recovery.Stale},
		"a rank elsewhere":   {func(k *transfer.Ticket, _ []byte) { k.Rank++ }, recovery.Stale},
		"no such chunk":      {func(k *transfer.Ticket, _ []byte) { k.Chunk++ }, recovery.Usage},
	} {
		if err := p.push(t, r.f); recovery.ClassOf(err) != r.class {
			t.Errorf("%s: %v", name, err)
		}
	}
	end := c.Await(p.job.Job)
	sameRanks(t, end, want.Ranks[0].Digest)
	if err := p.push(t, func(*transfer.Ticket, []byte) {}); recovery.ClassOf(err) != recovery.DigestMismatch {
		t.Errorf("other bytes for a piece that is placed: %v", err)
	}
	if _, err := c.Client.Unload(t.Context(), end.Model); err != nil {
		t.Fatal(err)
	}
	if err := p.push(t, func(*transfer.Ticket, []byte) {}); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("into an arena that was freed: %v", err)
	}
}

// TestThawedReader: a worker that is frozen with chunks under way, and thaws
// when its rank has moved and others have read them, changes nothing.
func TestThawedReader(t *testing.T) {
	uri, _ := limitedSource(t, 128<<10)
	c := StartCluster(t, bin, 3, "--allow-host", "127.0.0.1")
	q := replicated("thawed", uri, 1)
	q.Options.Layout.TP = 2
	q.Recovery = "recover"
	j := c.Submit(q)
	var victim string
	c.Until("something is placed", func() bool {
		s := c.Status(j.Job)
		if s.State.Final() {
			t.Fatalf("%s: %s", s.State, s.Why)
		}
		if s.Counters.ChunksDone == 0 {
			return false
		}
		victim = s.Ranks[0].Worker
		return true
	})
	frozen := c.Workers[victim].cmd.Process
	if err := frozen.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.Until("its rank has moved", func() bool {
		s := c.Status(j.Job)
		return s.State.Final() || s.Ranks[0].Worker != "" && s.Ranks[0].Worker != victim
	})
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(j.Job); s.State.Final() {
		t.Fatalf("it thawed after the load's end: %s %s", s.State, s.Why)
	}
	end := c.Await(j.Job)
	if end.State != messages.StateReady {
		t.Fatalf("%s: %s", end.State, end.Why)
	}
	q.Job, q.Name, q.URI = "calm", "m-calm", stories(t, "hf-f32", "", 2).URI
	q = once(q)
	for i, r := range c.Load(q).Ranks {
		if end.Ranks[i].Digest != r.Digest {
			t.Errorf("rank %d has digest %s, want %s", i, end.Ranks[i].Digest, r.Digest)
		}
	}
	var used int64
	for _, r := range end.Ranks {
		used += r.BytesTotal
	}
	c.Until("what the thawed worker held is freed", func() bool {
		free := int64(0)
		for _, w := range c.MustWorkers() {
			free += w.Devices[0].Free
		}
		return free == 3*(256<<20)-used
	})
}
