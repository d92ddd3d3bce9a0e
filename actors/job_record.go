package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// storeLimit is how long one write to the store may take.
const storeLimit = 5 * time.Second

// recorder keeps a job's record and writes it to the store by compare and
// set, one write at a time.
type recorder struct {
	job           messages.Job
	revision      uint64 // of the record in the store
	modelRevision uint64
	repair        bool // of a model that was ready: the load's times stay
	marked        bool // the model's record says that it is repaired
	writing       bool
	dirty         bool // changed since the last write began
	written       bool // the final record is in the store
	last          time.Time
	stale         time.Time // since when the store has refused writes; zero: it has not
	plan          *shard.Plan
	before        before
	sealErr       error                     // why a rank was not sealed, the last time
	found         map[int]loader.Validation // by rank: values that are not finite
}

// before is what was done for the leaders before this one.
type before struct {
	retries  int
	recorded int64 // bytes read, as the last record has it
	told     int64 // the same, as the workers have it that are still there
}

// bytesRead is the larger count: a record lags, and a lost worker tells nothing.
func (b before) bytesRead() int64 { return max(b.recorded, b.told) }

// recorded is the outcome of a write.
type recorded struct {
	revision      uint64 // of the job's record; 0: it was not written
	modelRevision uint64 // the same of the model's
	final         bool
	err           error
}

// jobChanged tells the coordinator how a job stands.
type jobChanged struct{ job messages.Job }

// record shows the record to the coordinator and writes it. A
// write under way is followed by another.
func (a *jobActor) record(c actor.Context) {
	snapshot := a.show(c)
	if a.rec.writing {
		a.rec.dirty = true
		return
	}
	a.rec.writing, a.rec.dirty, a.rec.last = true, false, time.Now()
	out, was, modelWas := recorded{final: a.phase == phaseEnding}, a.rec.revision, a.rec.modelRevision
	var model *messages.Model
	if out.final {
		model = a.model()
	} else if a.repairs != nil && !a.rec.marked {
		model = &a.repairs.Model
	}
	self, root, store := c.Self(), a.system.root, a.o.Store
	base := context.WithoutCancel(a.ctx)
	a.busy.Go(func() {
		ctx, cancel := context.WithTimeout(base, storeLimit)
		defer cancel()
		if model != nil {
			out.modelRevision, out.err = store.PutModel(ctx, *model, modelWas)
		}
		if out.err == nil {
			out.revision, out.err = store.PutJob(ctx, snapshot, was)
		}
		root.Send(self, out)
	})
}

// show refreshes the record and shows it to the coordinator.
func (a *jobActor) show(c actor.Context) messages.Job {
	a.refresh()
	if a.phase < phaseClosing { // a final state counts when all is freed and it is written down
		c.Send(c.Parent(), jobChanged{a.rec.job})
	}
	return a.rec.job
}

// model is what stays resident, nil where nothing does.
func (a *jobActor) model() *messages.Model {
	if a.rec.job.State != messages.StateReady || a.req.Once {
		return nil
	}
	since := time.Now()
	if a.repairs != nil {
		since = a.repairs.Since
	}
	return &messages.Model{
		Name: a.rec.job.Model, Revision: a.rec.job.Plan, Job: a.id, URI: a.req.URI, Scheme: a.req.Options.Scheme,
		Bytes: a.rec.job.BytesPlaced, Ranks: a.rec.job.Ranks, Since: since, State: messages.StateReady,
	}
}

// refresh brings the record up to what the machine knows.
func (a *jobActor) refresh() {
	r := &a.rec.job
	if !a.rec.repair && (!r.State.Final() || a.rec.last.IsZero()) {
		r.Seconds = time.Since(r.Submitted).Seconds()
	}
	if a.machine == nil {
		return
	}
	counters := a.machine.Counters()
	r.Counters, r.Stage, r.Overall = counters, counters.Stage(), counters.Overall()
	r.BytesRead, r.BytesPlaced = a.rec.before.bytesRead()+a.machine.BytesRead(), counters.BytesPlaced
	r.Retries = a.rec.before.retries + a.machine.Retries()
	r.SourceVerified = a.machine.SourceVerified()
	if stored := a.rec.plan.StoredBytes; stored > 0 {
		r.ReadAmplification = float64(r.BytesRead) / float64(stored)
	}
	r.Ranks = r.Ranks[:0:0]
	for i, s := range a.machine.Ranks() {
		p := &a.rec.plan.Ranks[i]
		rank := messages.Rank{
			Rank: i, DP: p.DP, PP: p.PP, EP: p.EP, TP: p.TP, Worker: s.Hold.Worker.Name, Device: s.Hold.Device,
			Generation: s.Hold.Generation, Bytes: p.ArenaBytes, BytesDone: s.BytesDone, BytesTotal: s.BytesTotal,
		}
		if s.Sealed {
			rank.Digest = hexDigest(s.Digest)
		}
		r.Ranks = append(r.Ranks, rank)
	}
}

// planned notes what the plan says.
func (r *recorder) planned(p *shard.Plan, digest string) {
	r.plan = p
	r.job.Plan, r.job.Fallbacks, r.job.Warnings = digest, p.Fallbacks, p.Warnings
}

// ended notes how the job ended.
func (r *recorder) ended(s job.Status, err error) {
	r.job.State = messages.State(s)
	if !r.repair {
		r.job.Seconds = time.Since(r.job.Submitted).Seconds()
	}
	if err != nil {
		r.job.Why, r.job.Class = err.Error(), recovery.ClassOf(err)
		if r.sealErr != nil && errors.Is(err, r.sealErr) && s == job.Failed {
			r.job.Validation.State, r.job.Validation.Reason = "failed", r.sealErr.Error()
		}
		return
	}
	r.job.Why, r.job.Class = "", ""
}

func (r *recorder) peakStaging(n int64) {
	r.job.PeakStagingBytes = max(r.job.PeakStagingBytes, n)
}

// validated adds the check of a rank to the report, or replaces that of its
// earlier place.
func (r *recorder) validated(rank int, v loader.Validation) {
	r.counted(rank, v)
	out := &r.job.Validation
	if !v.Ran {
		if out.State == "" {
			out.State, out.Reason = "skipped", v.Reason
		}
		return
	}
	out.State, out.Reason, out.Runtime = "passed", "", v.Runtime
	ranks := slices.DeleteFunc(slices.Clone(out.Ranks), func(x messages.RankValidation) bool { return x.Rank == rank })
	ranks = append(ranks, messages.RankValidation{
		Rank: rank, Tensor: v.Tensor, Method: v.Method, Rows: v.Rows, MaxError: v.MaxError, OK: true,
	})
	slices.SortFunc(ranks, func(x, y messages.RankValidation) int { return cmp.Compare(x.Rank, y.Rank) })
	out.Ranks = ranks
}

// setState notes where the job stands; a change is written down soon.
func (a *jobActor) setState(s messages.State, why string) {
	if a.rec.job.State == s && a.rec.job.Why == why {
		return
	}
	a.rec.job.State, a.rec.job.Why = s, why
	a.rec.dirty = true
}

// planText is the reason of the event `planned`.
func planText(p *shard.Plan) string {
	return fmt.Sprintf("%d tensors in %d chunks over %d ranks, %d bytes to read, %d to place",
		len(p.Tensors), len(p.Chunks), len(p.Ranks), p.ReadBytes, p.PlacedBytes)
}

// reporter tells progress: rates, stages, sequence numbers.
type reporter struct {
	planning  bool // a plan is being made
	seq       uint64
	stage     progress.Stage
	stageAt   time.Time
	stageRead int64   // stored bytes read before it
	over      bool    // the job has ended, and with it its last stage
	rate      float64 // bytes per second, smoothed
	at        time.Time
	counters  progress.Counters
	told      map[string]int64 // bytes read when it was last told, by worker
}

// emit publishes a fact.
func (a *jobActor) emit(e job.Emit) {
	a.o.Publish.Event(a.ctx, progress.Event{
		Job: a.id, Model: a.rec.job.Model, Kind: e.Kind, Reason: e.Reason, Worker: e.Worker, Rank: e.Rank, Chunk: e.Chunk, Time: time.Now(),
	})
}

// sayStage tells of a stage change at once.
func (a *jobActor) sayStage() {
	if a.machine != nil && a.machine.Counters().Stage() != a.report.stage {
		a.update(true)
	}
}

// endStage notes how long the stage took that ends now.
func (a *jobActor) endStage(now time.Time) {
	r := &a.report
	if r.over {
		return
	}
	read := r.counters.BytesRead
	if r.stageAt.IsZero() {
		r.stageAt = a.since
	}
	a.rec.job.Stages = append(a.rec.job.Stages, messages.StageTime{Stage: r.stage, Seconds: now.Sub(r.stageAt).Seconds(), BytesRead: read - r.stageRead})
	r.stageAt, r.stageRead = now, read
}

// update publishes the job's progress under the coordinator's name, and each
// worker's part of it under its own, where there is something new.
func (a *jobActor) update(always bool) (told bool) {
	if a.machine == nil {
		return false
	}
	r, now := &a.report, time.Now()
	counters := a.machine.Counters()
	if counters == r.counters && !always {
		return false
	}
	if dt := now.Sub(r.at).Seconds(); !r.at.IsZero() && dt > 0.05 {
		rate := float64(max(counters.BytesRead-r.counters.BytesRead, 0)) / dt
		if r.rate == 0 {
			r.rate = rate
		}
		r.rate += (rate - r.rate) / 4
		r.at = now
	} else if r.at.IsZero() {
		r.at = now
	}
	r.counters = counters
	if stage := counters.Stage(); stage != r.stage {
		a.endStage(now)
		r.stage = stage
	}
	eta := -1.0
	if left := counters.BytesToRead - counters.BytesRead; left == 0 {
		eta = 0
	} else if r.rate > 0 {
		eta = float64(left) / r.rate
	}
	u := progress.Update{
		Job: a.id, Model: a.rec.job.Model, Worker: a.o.Name, Rank: -1, Stage: counters.Stage(),
		BytesDone: counters.BytesRead, BytesTotal: counters.BytesToRead, ChunksDone: counters.ChunksDone, ChunksTotal: counters.ChunksTotal,
		RateBytesPerSec: r.rate, ETASec: eta, Overall: counters.Overall(), Time: now,
	}
	r.seq++
	u.Seq = r.seq
	a.o.Publish.Update(a.ctx, u)
	if r.told == nil {
		r.told = map[string]int64{}
	}
	for _, w := range a.inOrder() {
		if w.bytesRead == r.told[w.Name] {
			continue
		}
		r.told[w.Name] = w.bytesRead
		u.Worker, u.BytesDone, u.ChunksDone = w.Name, w.bytesRead, w.chunksDone
		u.RateBytesPerSec, u.ETASec = 0, -1
		r.seq++
		u.Seq = r.seq
		a.o.Publish.Update(a.ctx, u)
	}
	return true
}
