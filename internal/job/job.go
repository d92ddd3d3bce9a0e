package job

import (
	"slices"
	"time"

	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Kind is the kind of an emitted fact.
type Kind = progress.Kind

// Status is where a job stands.
type Status string

// The states of a job. The last three are final.
const (
	Waiting   Status = "waiting" // for workers with room
	Loading   Status = "loading"
	Sealing   Status = "sealing"
	Ready     Status = "ready"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Options is what a job depends on besides its plan.
type Options struct {
	Strategy recovery.Strategy
	// Pins say where ranks must lie; the others are placed by policy.
	Pins []placement.Pin
	// Patience is how long the job waits for room after it lost a worker,
	// before it fails with what is missing, and how long a worker may stay
	// suspect before it counts as lost. 0 is DefaultPatience.
	Patience time.Duration
	// Wait is how long a job that does not fit at its start waits for room,
	// before it fails with what is missing. 0 is not at all.
	Wait time.Duration
	// Before is where the ranks were under an earlier driver of the job, as far
	// as is known. What no worker holds of it any more has been lost.
	Before []Hold
	// Resident says that the model was ready before: as long as one copy of it
	// is whole, the others wait for room without end.
	Resident bool
	// RetryBudget bounds the failed tries that the source may cost in all,
	// beyond those that chunks which come through make up for: a source that is
	// down must not be asked by every chunk in flight as often as each may try.
	// 0 is DefaultRetryBudget.
	RetryBudget int
	// Answer is how long a Place or Seal may go unanswered before it is sent
	// again. 0 is DefaultAnswer.
	Answer time.Duration
	// Accept is how long a Load may go unacknowledged before it is sent
	// again, and how long an accepted one may be out of its worker's Holding
	// before it counts as lost. 0 is DefaultAccept.
	Accept time.Duration
}

// The defaults of Options.
const (
	DefaultPatience    = 30 * time.Second
	DefaultRetryBudget = 64
	DefaultAnswer      = 10 * time.Second
	DefaultAccept      = 2 * time.Second
)

// Job is the state of one load. It is not safe for concurrent use: one actor
// or goroutine drives it.
type Job struct {
	plan    *shard.Plan
	o       Options
	err     error // why the plan cannot be carried out, or why the job ended
	started bool
	housed  bool   // every rank has had a home at once
	end     Status // final state, "" before

	chunks  []chunk
	pieces  []piece // of all chunks, in the plan's order
	ranks   []rank
	pins    map[int]*placement.Pin
	flights map[attempt]*flight
	lenders map[int][]*worker // that can, or could, copy a rank of the first copy from another job's arena

	workers []*worker // by order of appearance
	byName  map[string]*worker
	anyLost bool
	laden   set   // workers with queued chunks
	idle    set   // workers with credit left and nothing queued
	hungry  []int // workers to be looked at by pump
	turn    int   // the worker that took over another's chunk last
	victim  int   // the worker whose queue was compared last (rate.go)
	pace    pace
	scratch []int64

	now       time.Time
	wake      time.Time // the earliest Tick asked for, zero: none
	waitUntil time.Time // when homeless ranks fail the job, zero: there are none
	missing   error     // what those lack
	paused    []pause   // what is held back until its time
	stamp     uint64    // of the last Holding
	out       []Command

	counters  progress.Counters
	sealed    int
	retries   int
	budget    int  // tries that may still fail
	unchecked bool // some piece was made of bytes that the source has no digests of
	bytesRead int64
	counted   map[attempt]struct{} // superseded attempts whose reads are in bytesRead
}

// New returns a job that carries out plan. Nothing is asked of anybody until
// Start.
func New(plan *shard.Plan, o Options) *Job {
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.RetryBudget <= 0 {
		o.RetryBudget = DefaultRetryBudget
	}
	if o.Answer <= 0 {
		o.Answer = DefaultAnswer
	}
	if o.Accept <= 0 {
		o.Accept = DefaultAccept
	}
	j := &Job{plan: plan, o: o, byName: map[string]*worker{}, counted: map[attempt]struct{}{}, flights: map[attempt]*flight{}, lenders: map[int][]*worker{}, budget: o.RetryBudget, pins: map[int]*placement.Pin{}}
	if j.err = j.lay(); j.err == nil {
		j.err = placement.Check(o.Pins, len(j.ranks))
	}
	for i := range o.Pins {
		j.pins[o.Pins[i].Rank] = &o.Pins[i]
	}
	for _, h := range o.Before {
		if h.Generation > 0 && h.Rank >= 0 && h.Rank < len(j.ranks) {
			r := &j.ranks[h.Rank]
			r.hold.Generation, r.inherited = h.Generation, true
			r.why = "worker " + h.Worker.Name + " does not hold it any more"
		}
	}
	return j
}

// lay sets chunks, pieces and ranks up from the plan, and checks that its
// numbers refer to each other.
func (j *Job) lay() error {
	bad := func(format string, args ...any) error {
		e := recovery.Errorf(recovery.Internal, format, args...)
		e.Op = "read plan"
		return e
	}
	j.ranks = make([]rank, len(j.plan.Ranks))
	for i, r := range j.plan.Ranks {
		if r.Rank != i {
			return bad("rank %d stands at place %d", r.Rank, i)
		}
		j.ranks[i] = rank{hold: Hold{Rank: i}, bytes: r.ArenaBytes}
	}
	j.chunks = make([]chunk, len(j.plan.Chunks))
	for i := range j.plan.Chunks {
		pc := &j.plan.Chunks[i]
		if pc.ID != i {
			return bad("chunk %d stands at place %d", pc.ID, i)
		}
		c := &j.chunks[i]
		c.first, c.bytes, c.near = len(j.pieces), pc.Stored(), near(j.plan, pc)
		last := -1
		for _, p := range pc.Pieces {
			if p.Rank <= last || p.Rank >= len(j.ranks) {
				return bad("chunk %d has a piece for rank %d after rank %d, of %d ranks", i, p.Rank, last, len(j.ranks))
			}
			last = p.Rank
			r := &j.ranks[p.Rank]
			r.pieces = append(r.pieces, len(j.pieces))
			r.missing++
			r.total += p.Bytes
			j.pieces = append(j.pieces, piece{chunk: i, rank: p.Rank, bytes: p.Bytes})
			j.counters.BytesToPlace += p.Bytes
		}
		c.stop = len(j.pieces)
		c.missing = c.stop - c.first
		if err := j.pair(c); err != nil {
			return bad("chunk %d: %w", i, err)
		}
		c.blocked = c.unread // no rank has an arena yet
		if c.missing > 0 {
			j.counters.ChunksTotal++
			j.counters.BytesToRead += c.bytes
		}
	}
	j.counters.RanksTotal = len(j.ranks)
	return nil
}

// Start gives the job the workers that are there, and begins. Where they have
// no room for every rank it waits as long as its options say, and then ends
// with class out_of_capacity.
func (j *Job) Start(now time.Time, workers []WorkerUp) []Command {
	if j.started || j.over() {
		return nil
	}
	j.now = now
	if j.err != nil {
		j.fail(j.err)
		return j.take()
	}
	for _, w := range workers {
		j.admit(w)
	}
	j.adopt(workers...)
	j.started = true
	if slices.ContainsFunc(j.ranks, func(r rank) bool { return r.inherited }) {
		j.begin() // every rank has had a home
	}
	if err := j.settle(); err != nil && !j.housed && j.o.Wait <= 0 {
		j.fail(err)
		return j.take()
	}
	j.checkReady()
	return j.take()
}

// begin says that every rank has found its place for the first time.
func (j *Job) begin() {
	j.housed = true
	there := ""
	if n := j.counters.BytesPlaced; n > 0 {
		there = ", " + size(n) + " placed already"
	}
	j.emit(progress.Started, "", -1, -1, "%d ranks, %d chunks, %d workers%s", len(j.ranks), j.counters.ChunksTotal, len(j.workers), there)
}

// Step applies one event and returns what must be done about it. Events
// before Start, other than Cancel and Abort, are not for it: Start is told who is there.
func (j *Job) Step(now time.Time, e Event) []Command {
	if now.After(j.now) {
		j.now = now
	}
	switch {
	case j.over():
		j.late(e)
		return j.take()
	case !j.started:
		switch e := e.(type) {
		case Cancel:
			j.cancel(e.Reason)
		case Abort:
			j.fail(orUnknown(e.Err))
		}
		return j.take()
	}
	j.apply(e)
	if !j.over() && !j.wake.IsZero() && !j.now.Before(j.wake) {
		j.due()
	}
	if !j.over() {
		j.pump()
	}
	return j.take()
}

func (j *Job) apply(e Event) {
	switch e := e.(type) {
	case WorkerUp:
		j.workerUp(e)
	case WorkerSuspect:
		j.workerSuspect(e)
	case WorkerLost:
		j.workerLost(e)
	case Placed:
		j.placed(e)
	case PlaceFailed:
		j.placeFailed(e)
	case Accepted:
		j.accepted(e)
	case Holding:
		j.holding(e)
	case ChunkDone:
		j.chunkDone(e)
	case ChunkRetried:
		j.chunkRetried(e)
	case ChunkFailed:
		j.chunkFailed(e)
	case Sealed:
		j.rankSealed(e)
	case SealFailed:
		j.sealFailed(e)
	case Cancel:
		j.cancel(e.Reason)
	case Abort:
		j.fail(orUnknown(e.Err))
	case Tick: // due, in Step, looks at the time
	}
}

// take returns the commands that have come together.
func (j *Job) take() []Command {
	out := j.out
	j.out = nil
	return out
}
