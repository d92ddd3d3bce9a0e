package actors

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// heldJob is a job that a worker has open.
type heldJob struct {
	spec     loader.JobSpec
	plan     string            // digest
	index    *checkpoint.Index // set before the job is open
	lends    []uint32          // ranks of the first copy that other jobs here hold; set before the job is open
	boss     *actor.PID        // the Job actor that opened it
	state    jobState
	ctx      context.Context // ends when the job is closed; carries its trace
	cancel   context.CancelFunc
	work     sync.WaitGroup   // goroutines that use the node for this job
	read     int64            // stored bytes, by the attempts that have ended
	seen     map[attempt]bool // attempts that were asked for, or revoked before they were
	chunks   map[attempt]*chunkTask
	shards   map[arena]*shardTask
	children map[string]*actor.PID // all that run, also those that were told to stop
	askers   []*actor.PID          // who waits for the job to be closed
	next     func()                // what to do when it is closed
}

// attempt names an attempt at a chunk by this worker. There may be several at
// once: a read, and copies of pieces that are placed.
type attempt struct {
	chunk  int
	number uint64
}

// arena names one life of a rank's memory.
type arena struct {
	rank       int
	generation uint64
}

// jobState is where a job stands at a worker.
type jobState uint8

const (
	jobIsOpening jobState = iota
	jobIsOpen
	jobIsClosing
)

// jobOpened and jobClosed are what the goroutines that open and close a job
// tell the worker actor.
type (
	jobOpened struct {
		job *heldJob
		err error
	}
	jobClosed struct {
		job *heldJob
		err error
	}
)

// openJob makes the node ready for a job: it builds the plan from the stored
// index and compares digests. A job that an earlier leader had opened with the
// same plan is passed on as it is; with another plan it is closed before.
func (w *worker) openJob(c actor.Context, m *control.OpenJob) {
	id, boss := m.Header.GetJob(), c.Sender()
	if j := w.jobs[id]; j != nil {
		plan, epoch := j.plan == m.GetPlanDigest(), j.spec.Epoch == m.Header.GetEpoch()
		switch {
		case plan && epoch && j.state == jobIsOpening && samePID(j.boss, boss): // sent twice; the answer comes
		case plan && epoch && j.state == jobIsOpen && samePID(j.boss, boss):
			w.reportOpened(c, j)
		case plan && j.state == jobIsOpen:
			w.passOn(c, j, boss, m)
		default:
			ctx := contextOf(w.ctx, c)
			j.next = func() { w.beginOpen(c, ctx, boss, m) }
			w.beginClose(c, j)
		}
		return
	}
	w.beginOpen(c, contextOf(w.ctx, c), boss, m)
}

// passOn makes another driver the boss of an open job. What is placed stays.
// Attempts under way end: the new one numbers its own from the start.
func (w *worker) passOn(c actor.Context, j *heldJob, boss *actor.PID, m *control.OpenJob) {
	for _, t := range j.chunks {
		c.Stop(t.pid)
	}
	clear(j.chunks)
	clear(j.seen)
	spec := j.spec
	spec.Epoch = m.Header.GetEpoch()
	if err := w.Node.Open(j.ctx, spec); err != nil { // raises the epoch, and blocks for nothing
		w.Log.Error("job cannot be passed on", "job", spec.ID, "err", err)
		j.next = func() { w.beginOpen(c, contextOf(w.ctx, c), boss, m) }
		w.beginClose(c, j)
		return
	}
	// Of the spec only this changes: the job's actors may be reading the rest.
	j.spec.Epoch, j.boss = spec.Epoch, boss
	c.Watch(boss)
	w.Log.Info("job passed on", "job", spec.ID, "epoch", spec.Epoch)
	w.reportOpened(c, j)
}

// reportOpened answers OpenJob with what the worker has of the job.
func (w *worker) reportOpened(c actor.Context, j *heldJob) {
	placed := map[job.Hold]job.Held{}
	for _, h := range w.Node.Held(j.spec.ID) {
		placed[h.Hold] = h
	}
	var held []job.Held
	for _, s := range j.shards {
		if h := placed[s.hold]; !s.freeing {
			h.Hold = s.hold // also one that is being made
			held = append(held, h)
		}
	}
	w.report(c, j, &control.JobOpened{Header: w.header(j.spec.ID, j.spec.Epoch), Held: control.FromHeld(held), BytesRead: j.read, Lends: j.lends})
}

// beginOpen opens the job in a goroutine.
func (w *worker) beginOpen(c actor.Context, ctx context.Context, boss *actor.PID, m *control.OpenJob) {
	id := m.Header.GetJob()
	ctx, cancel := context.WithCancel(ctx)
	j := &heldJob{
		plan: m.GetPlanDigest(), boss: boss, ctx: ctx, cancel: cancel,
		spec: loader.JobSpec{
			ID: id, Epoch: m.Header.GetEpoch(), URI: m.GetUri(), LimitRate: m.GetLimitRate(),
			Strategy: m.GetStrategy().Recovery(), Validate: m.GetValidate(), InPlace: m.GetInPlace(),
		},
		seen: map[attempt]bool{}, chunks: map[attempt]*chunkTask{}, shards: map[arena]*shardTask{},
		children: map[string]*actor.PID{},
	}
	w.jobs[id] = j
	w.Metrics.JobActive(w.ctx, 1)
	c.Watch(boss)
	self := c.Self()
	w.jobDo(j, func() {
		err := w.open(ctx, j, m)
		w.system.root.Send(self, jobOpened{j, err})
	})
}

// open builds the job's plan and opens it at the node.
func (w *worker) open(ctx context.Context, j *heldJob, m *control.OpenJob) error {
	ix, err := w.Plans.Index(ctx, m.GetIndexDigest())
	if err != nil {
		return err
	}
	plan, err := shard.Build(ix, m.GetOptions().Shard())
	if err != nil {
		return err
	}
	if got := plan.Digest(); got != m.GetPlanDigest() {
		return recovery.Errorf(recovery.Internal, "worker %s builds plan %s, the coordinator %s: run the same release everywhere", w.life.Name, got, m.GetPlanDigest())
	}
	j.spec.Plan, j.index = plan, ix
	if err := w.Node.Open(ctx, j.spec); err != nil {
		return err
	}
	for _, r := range w.Node.Lends(j.spec.ID) {
		j.lends = append(j.lends, uint32(r))
	}
	return nil
}

// jobDo runs f in a goroutine that the closing of j waits for.
func (w *worker) jobDo(j *heldJob, f func()) {
	j.work.Add(1)
	w.goDo(func() {
		defer j.work.Done()
		f()
	})
}

func (w *worker) jobOpened(c actor.Context, m jobOpened) {
	j := m.job
	if j.state != jobIsOpening {
		return // closed meanwhile
	}
	w.report(c, j, &control.JobOpened{Header: w.header(j.spec.ID, j.spec.Epoch), Error: control.FromError(m.err), Lends: j.lends})
	if m.err != nil {
		w.Log.Warn("job could not be opened", "job", j.spec.ID, "err", m.err)
		w.beginClose(c, j)
		return
	}
	j.state = jobIsOpen
	w.Log.Info("job opened", "job", j.spec.ID, "epoch", j.spec.Epoch, "plan", j.plan)
}

// closeJob frees all that the worker holds for a job, and answers when it is
// free. A job that is not known is closed already.
func (w *worker) closeJob(c actor.Context, m *control.CloseJob) {
	j := w.jobs[m.Header.GetJob()]
	if j == nil {
		w.answer(c, &control.JobClosed{Header: w.header(m.Header.GetJob(), m.Header.GetEpoch())})
		return
	}
	if to := c.Sender(); to != nil {
		j.askers = append(j.askers, to)
	}
	j.next = nil
	w.beginClose(c, j)
}

// beginClose ends the job's children and then, in a goroutine, its arenas.
func (w *worker) beginClose(c actor.Context, j *heldJob) {
	if j.state == jobIsClosing {
		return
	}
	j.state = jobIsClosing
	j.cancel()
	children := slices.Collect(maps.Values(j.children))
	self := c.Self()
	w.goDo(func() {
		for _, pid := range children { // they start no work after they are gone
			if err := w.system.stop(pid); err != nil {
				w.Log.Error("child does not stop", "actor", pid.Id, "err", err)
			}
		}
		j.work.Wait()
		w.system.root.Send(self, jobClosed{j, w.Node.Close(j.spec.ID)})
	})
}

func (w *worker) jobClosed(c actor.Context, m jobClosed) {
	j := m.job
	for _, s := range j.shards {
		w.use(s.hold.Device, -s.bytes)
		s.end(nil)
	}
	delete(w.jobs, j.spec.ID)
	w.Metrics.JobActive(w.ctx, -1)
	w.forgetExports(j)
	if m.err != nil {
		w.Log.Error("job did not close cleanly", "job", j.spec.ID, "err", m.err)
	}
	w.Log.Info("job closed", "job", j.spec.ID)
	for _, to := range j.askers {
		c.Request(to, &control.JobClosed{Header: w.header(j.spec.ID, j.spec.Epoch), Error: control.FromError(m.err)})
	}
	if j.next != nil {
		j.next()
	}
}

// held lists what the worker has of a job.
func (j *heldJob) held() *control.JobHeld {
	h := &control.JobHeld{Job: j.spec.ID, Epoch: j.spec.Epoch}
	for a, s := range j.shards {
		h.Holds = append(h.Holds, control.FromHold(s.hold))
		if s.digest != nil {
			h.Sealed = append(h.Sealed, uint32(a.rank))
		}
	}
	for _, t := range j.chunks {
		h.InFlight = append(h.InFlight, control.FromRef(t.ref))
	}
	return h
}

// load starts an attempt at a chunk. One that was seen before was sent twice or
// revoked, and starts nothing.
func (w *worker) load(c actor.Context, j *heldJob, m *control.LoadChunk) error {
	ref := m.Ref.Job(w.life)
	at := attempt{ref.Chunk, ref.Attempt}
	switch {
	case m.From != nil && len(m.GetDests()) != 1:
		return recovery.Errorf(recovery.Usage, "a copy of chunk %d for %d ranks, want one", ref.Chunk, len(m.GetDests()))
	case j.seen[at]:
		w.answer(c, &control.Accepted{Header: w.header(j.spec.ID, j.spec.Epoch), Ref: m.Ref})
		return nil
	}
	j.seen[at] = true
	t := &chunkTask{job: j, ref: ref, started: time.Now(), ctx: contextOf(j.ctx, c)}
	for _, d := range m.GetDests() {
		hold := d.GetHold().Job(job.Worker{Name: d.GetWorker(), Incarnation: d.GetIncarnation()})
		dest := loader.Dest{Hold: hold, Addr: d.GetTransfer()}
		if hold.Worker == w.life {
			dest.Addr = ""
			if s := j.shards[arena{hold.Rank, hold.Generation}]; s != nil && len(t.dests) == 0 {
				t.ctx = s.ctx // the chunk's span belongs to the rank's
			}
		}
		t.dests = append(t.dests, dest)
	}
	if m.From != nil {
		from := m.From.Job(w.life)
		t.from = &from
	}
	j.chunks[at] = t
	t.pid = w.spawn(c, j, &chunkActor{task: t, worker: w})
	return nil
}

// revoke ends an attempt, which tells what it has read. One that has not arrived
// yet must not start when it does.
func (w *worker) revoke(c actor.Context, j *heldJob, m *control.Revoke) {
	ref := m.Ref.Job(w.life)
	at := attempt{ref.Chunk, ref.Attempt}
	j.seen[at] = true
	if t := j.chunks[at]; t != nil {
		t.revoked = true
		c.Send(t.pid, revoked{})
	}
}

func (w *worker) chunkRetried(c actor.Context, m chunkRetried) {
	j := m.task.job
	if j.state != jobIsOpen || j.chunks[m.task.attempt()] != m.task {
		return
	}
	w.Metrics.Retry(m.task.ctx, string(recovery.ClassOf(m.err)))
	w.report(c, j, &control.ChunkRetried{
		Header: w.header(j.spec.ID, j.spec.Epoch), Ref: control.FromRef(m.task.ref),
		Failed: uint32(m.failed), Error: control.FromError(m.err),
	})
}

func (w *worker) chunkEnded(c actor.Context, m chunkEnded) {
	t, j := m.task, m.task.job
	if j.state != jobIsOpen || j.chunks[t.attempt()] != t {
		return // passed on, or the job is closed
	}
	delete(j.chunks, t.attempt())
	j.read += t.read
	w.Metrics.Chunk(t.ctx, t.read, time.Since(t.started), string(recovery.ClassOf(m.err)))
	head := w.header(j.spec.ID, j.spec.Epoch)
	if m.err != nil {
		if recovery.ClassOf(m.err) != recovery.Cancelled { // it was revoked
			w.Log.Warn("chunk given up", "job", j.spec.ID, "chunk", t.ref.Chunk, "attempt", t.ref.Attempt, "err", m.err)
		}
		w.report(c, j, &control.ChunkFailed{Header: head, Ref: control.FromRef(t.ref), BytesRead: t.read, Error: control.FromError(m.err)})
		return
	}
	for _, done := range m.pieces {
		w.Metrics.Placed(t.ctx, j.spec.Plan.Chunks[t.ref.Chunk].Piece(done.Rank).Bytes)
	}
	w.report(c, j, &control.ChunkDone{Header: head, Ref: control.FromRef(t.ref), BytesRead: t.read, Pieces: control.FromPieces(m.pieces)})
}

// hexDigest writes a digest as users see it.
func hexDigest(d [16]byte) string { return hex.EncodeToString(d[:]) }
