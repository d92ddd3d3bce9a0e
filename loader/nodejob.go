package loader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// nodeJob is one job's part of a node: its source and the ranks held for it.
type nodeJob struct {
	spec    JobSpec
	encoded []encoded // by tensor of the plan
	src     source.Source
	pace    *source.Limiter
	lane    lane         // shared with other jobs
	digests *digests.Set // nil where the source has none
	covered []bool       // by file of the plan: whether digests has it

	ctx    context.Context // ends when the job is closed here
	cancel context.CancelCauseFunc
	busy   sync.WaitGroup // calls between enter and leave

	mu           sync.Mutex
	closed       bool
	epoch        uint64
	ranks        map[int]*rank
	readers      []*lazyReader  // by file of the plan
	fingerprints map[int]string // of ranks that were asked about
}

// encoded is how a tensor is transformed.
type encoded struct {
	tensor  *shard.Tensor
	scheme  quant.Scheme
	layout  quant.Layout
	inPlace bool     // one row at a time where rows need scratch
	measure *measure // of schemes that need one, else nil
}

// decodes says that stored elements are turned into F32 before they are
// encoded.
func (e *encoded) decodes() bool {
	stored := e.tensor.DType
	if e.tensor.Source != nil {
		stored = e.tensor.Source.Type()
	}
	return stored != e.tensor.From
}

// lazyReader opens a file when its first chunk is read.
type lazyReader struct {
	mu sync.Mutex
	r  source.Reader
}

func newNodeJob(ctx context.Context, s JobSpec, open func(context.Context, string, recovery.Strategy) (source.Source, error)) (*nodeJob, error) {
	j := &nodeJob{spec: s, pace: source.NewLimiter(s.LimitRate), epoch: s.Epoch, ranks: map[int]*rank{}, fingerprints: map[int]string{}, encoded: make([]encoded, len(s.Plan.Tensors))}
	for i := range s.Plan.Tensors {
		t := &s.Plan.Tensors[i]
		scheme, err := quant.Parse(t.Scheme)
		if err != nil {
			return nil, err
		}
		j.encoded[i] = encoded{tensor: t, scheme: scheme, layout: t.Layout, inPlace: s.InPlace}
		if t.Layout.Scope == quant.Tensor {
			j.encoded[i].measure = newMeasure()
		}
	}
	src, err := open(ctx, s.URI, s.Strategy)
	if err != nil {
		return nil, err
	}
	j.src = checkpoint.WithValues(src)
	if err := j.readDigests(ctx); err != nil {
		return nil, errors.Join(err, src.Close())
	}
	j.ctx, j.cancel = context.WithCancelCause(context.Background())
	for range s.Plan.Files {
		j.readers = append(j.readers, &lazyReader{})
	}
	return j, nil
}

// enter registers a call; close waits for it. It fails once closed.
func (j *nodeJob) enter() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.busy.Add(1)
	}
	return !j.closed
}

func (j *nodeJob) leave() { j.busy.Done() }

// within returns a context that ends with ctx or when the job is closed.
func (j *nodeJob) within(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(j.ctx, func() { cancel(context.Cause(j.ctx)) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// raise accepts an epoch that is not older than the highest seen.
func (j *nodeJob) raise(epoch uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if epoch < j.epoch {
		return recovery.Errorf(recovery.Stale, "job %q: epoch %d is over, %d rules", j.spec.ID, epoch, j.epoch)
	}
	j.epoch = epoch
	return nil
}

func (j *nodeJob) currentEpoch() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.epoch
}

// place makes the arena of a hold.
func (j *nodeJob) place(ctx context.Context, h job.Hold, o NodeOptions) error {
	if h.Rank < 0 || h.Rank >= len(j.spec.Plan.Ranks) {
		return recovery.Errorf(recovery.Usage, "job %q has no rank %d", j.spec.ID, h.Rank)
	}
	old, err := j.admit(h)
	if err != nil || old == nil {
		return err
	}
	if old.hold.Generation != h.Generation {
		if err := j.free(old.hold); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r, err := newRank(ctx, j.spec.ID, h, j.spec.Plan, o)
	if err != nil {
		return err
	}
	j.mu.Lock()
	other := j.ranks[h.Rank]
	if other == nil {
		j.ranks[h.Rank] = r
	}
	j.mu.Unlock()
	switch {
	case other == nil:
		return nil
	case other.hold.Generation == h.Generation: // placed twice at once
		return r.free()
	}
	return errors.Join(r.free(), staleHold(j.spec.ID, h))
}

// admit says what placing h must do: nothing (nil), or replace what it
// returns, where a hold of h's own generation means that there is nothing.
func (j *nodeJob) admit(h job.Hold) (*rank, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.ranks[h.Rank]
	switch {
	case r == nil:
		return &rank{hold: h}, nil
	case r.hold.Generation == h.Generation:
		return nil, nil
	case r.hold.Generation > h.Generation:
		return nil, staleHold(j.spec.ID, h)
	}
	return r, nil
}

// hold returns the rank that h names, if it is there in this generation.
func (j *nodeJob) hold(h job.Hold) (*rank, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.ranks[h.Rank]
	if r == nil || r.hold.Generation != h.Generation {
		return nil, staleHold(j.spec.ID, h)
	}
	return r, nil
}

// held lists the ranks by number.
func (j *nodeJob) held() []job.Held {
	j.mu.Lock()
	ranks := slices.Collect(maps.Values(j.ranks))
	j.mu.Unlock()
	held := make([]job.Held, len(ranks))
	for i, r := range ranks {
		held[i] = r.held()
	}
	slices.SortFunc(held, func(a, b job.Held) int { return a.Hold.Rank - b.Hold.Rank })
	return held
}

// free forgets a hold and gives its memory back.
func (j *nodeJob) free(h job.Hold) error {
	j.mu.Lock()
	r := j.ranks[h.Rank]
	if r == nil || r.hold.Generation != h.Generation {
		j.mu.Unlock()
		return nil
	}
	delete(j.ranks, h.Rank)
	j.mu.Unlock()
	return r.free()
}

// take forgets a sealed hold and hands out its arena.
func (j *nodeJob) take(h job.Hold) (device.Arena, error) {
	r, err := j.hold(h)
	if err != nil {
		return nil, err
	}
	if !r.isSealed() {
		return nil, recovery.Errorf(recovery.Internal, "job %q: rank %d is taken before it is sealed", j.spec.ID, h.Rank)
	}
	j.mu.Lock()
	if j.ranks[h.Rank] == r {
		delete(j.ranks, h.Rank)
	}
	j.mu.Unlock()
	return r.detach()
}

// close ends the calls under way and frees everything.
func (j *nodeJob) close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	j.cancel(recovery.Errorf(recovery.Cancelled, "job %q is closed", j.spec.ID))
	// Freed first, so that writers stop; and again, for an arena that a call
	// under way has made since.
	errs := j.freeAll()
	j.busy.Wait()
	errs = append(errs, j.freeAll()...)
	for _, l := range j.readers {
		if l.r != nil {
			errs = append(errs, l.r.Close())
		}
	}
	return errors.Join(append(errs, j.src.Close())...)
}

func (j *nodeJob) freeAll() []error {
	j.mu.Lock()
	ranks := j.ranks
	j.ranks = map[int]*rank{}
	j.mu.Unlock()
	var errs []error
	for _, r := range ranks {
		errs = append(errs, r.free())
	}
	return errs
}

// reader opens a file of the plan, once. The file must be the one that was
// planned.
func (j *nodeJob) reader(ctx context.Context, file int) (source.Reader, error) {
	l := j.readers[file]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r != nil {
		return l.r, nil
	}
	planned := j.spec.Plan.Files[file]
	r, err := j.src.Open(ctx, planned.Name)
	if err != nil {
		return nil, err
	}
	if got := r.File(); got.Size != planned.Size || got.ID != planned.ID {
		err := &recovery.Error{Class: recovery.SourceChanged, Op: "open", File: planned.Name,
			Err:  fmt.Errorf("it was planned with %d bytes as %q and is now %d bytes, %q", planned.Size, planned.ID, got.Size, got.ID),
			Hint: "load again, so that it is planned anew"}
		return nil, errors.Join(err, r.Close())
	}
	if j.covered[file] {
		if err := headOf(ctx, j.digests.File(planned.Name), r.ReadAt); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	l.r = r
	return r, nil
}

// piece finds what a chunk leaves in a rank.
func piece(p *shard.Plan, chunk, rank int) (*shard.Piece, error) {
	if chunk < 0 || chunk >= len(p.Chunks) {
		return nil, recovery.Errorf(recovery.Usage, "the plan has no chunk %d", chunk)
	}
	piece := p.Chunks[chunk].Piece(rank)
	if piece == nil {
		return nil, recovery.Errorf(recovery.Usage, "chunk %d has no piece for rank %d", chunk, rank)
	}
	return piece, nil
}

func staleHold(jobID string, h job.Hold) error {
	return recovery.Errorf(recovery.Stale, "job %q: rank %d is not held in generation %d", jobID, h.Rank, h.Generation)
}

// ctxOr returns ctx's error if it has ended, else err.
func ctxOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
