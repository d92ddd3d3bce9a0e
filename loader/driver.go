package loader

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/placement"
)

// holdingEvery is how often the job hears which attempts are under way.
const holdingEvery = time.Second

// driver carries out a job's commands on a node of the same process and turns
// what comes of them into events. One goroutine, run's, steps the job.
type driver struct {
	node     *Node
	spec     JobSpec
	job      *job.Job
	reporter *reporter

	ctx    context.Context // of the work; ended before run returns
	work   sync.WaitGroup
	events chan job.Event
	loads  map[job.Ref]context.CancelFunc // attempts under way
	ended  *job.End
	wake   *time.Timer

	mu      sync.Mutex
	reports map[int]SealReport // by rank
}

func newDriver(node *Node, spec JobSpec, pins []placement.Pin, r *reporter) *driver {
	return &driver{node: node, spec: spec, reporter: r, job: job.New(spec.Plan, job.Options{Strategy: spec.Strategy, Pins: pins}),
		events: make(chan job.Event), loads: map[job.Ref]context.CancelFunc{}, reports: map[int]SealReport{}}
}

// run drives the job to its end and returns what sealing the ranks found.
func (d *driver) run(ctx context.Context, self job.WorkerUp) (map[int]SealReport, error) {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.ctx = work
	defer d.work.Wait()
	defer stop()
	d.wake = time.NewTimer(time.Hour)
	defer d.wake.Stop()
	holding := time.NewTicker(holdingEvery)
	defer holding.Stop()

	d.obey(d.job.Start(time.Now(), []job.WorkerUp{self}))
	cancelled := ctx.Done()
	for d.ended == nil {
		d.reporter.update(d.job.Counters())
		select {
		case e := <-d.events:
			d.step(e)
		case <-d.wake.C:
			d.step(job.Tick{})
		case <-holding.C:
			d.step(job.Holding{Worker: self.Worker, Refs: slices.Collect(maps.Keys(d.loads))})
		case <-cancelled:
			cancelled = nil
			d.step(job.Cancel{Reason: context.Cause(ctx).Error()})
		}
	}
	d.reporter.update(d.job.Counters())
	if ctx.Err() != nil && d.ended.State == job.Cancelled {
		return nil, context.Cause(ctx)
	}
	return d.reports, d.ended.Err
}

// step tells the job what happened and does what it says.
func (d *driver) step(e job.Event) {
	switch e := e.(type) {
	case job.ChunkDone:
		d.forget(e.Ref)
	case job.ChunkFailed:
		d.forget(e.Ref)
	}
	d.obey(d.job.Step(time.Now(), e))
}

func (d *driver) forget(r job.Ref) {
	if cancel := d.loads[r]; cancel != nil {
		cancel()
		delete(d.loads, r)
	}
}

// obey starts the work that commands ask for. What answers at once is told
// the job at once, and its commands are done in turn.
func (d *driver) obey(commands []job.Command) {
	for len(commands) > 0 {
		c := commands[0]
		commands = commands[1:]
		switch c := c.(type) {
		case job.Place:
			d.spawn(func() job.Event {
				if err := d.node.Place(d.ctx, d.spec.ID, c.Hold); err != nil {
					return job.PlaceFailed{Hold: c.Hold, Err: err}
				}
				return job.Placed{Hold: c.Hold}
			})
		case job.Load:
			d.load(c)
			commands = append(commands, d.job.Step(time.Now(), job.Accepted{Ref: c.Ref})...)
		case job.Revoke:
			d.forget(c.Ref)
		case job.Seal:
			d.spawn(func() job.Event { return d.seal(c.Hold) })
		case job.Free:
			// The node frees all when the job is closed; until then only a
			// lost worker's arenas would be in the way, and there is none.
		case job.Emit:
			// Facts are for whoever watches a cluster; here Load's result and
			// the progress tell them.
		case job.Wake:
			d.wake.Reset(time.Until(c.At))
		case job.End:
			d.ended = &c
		}
	}
}

// spawn works in a goroutine of its own and sends what came of it, unless the
// load is over by then.
func (d *driver) spawn(f func() job.Event) {
	d.work.Go(func() {
		select {
		case d.events <- f():
		case <-d.ctx.Done():
		}
	})
}

// load makes an attempt at a chunk: as many tries as the strategy allows.
func (d *driver) load(c job.Load) {
	if d.loads[c.Ref] != nil {
		return // asked again
	}
	ctx, cancel := context.WithCancel(d.ctx)
	d.loads[c.Ref] = cancel
	dests := make([]Dest, len(c.Dests))
	for i, h := range c.Dests {
		dests[i] = Dest{Hold: h}
	}
	d.work.Go(func() {
		defer cancel()
		e := d.attempt(ctx, c, dests)
		if e == nil {
			return
		}
		select {
		case d.events <- e:
		case <-ctx.Done():
		}
	})
}

// attempt tries until the chunk is loaded or given up; nil where ctx ended
// first.
func (d *driver) attempt(ctx context.Context, c job.Load, dests []Dest) job.Event {
	ref := c.Ref
	tries := job.Tries{Strategy: d.spec.Strategy}
	var read int64
	for {
		pieces, n, err := d.try(ctx, c, dests)
		read += n
		if err == nil {
			return job.ChunkDone{Ref: ref, BytesRead: read, Pieces: pieces}
		}
		if ctx.Err() != nil {
			return nil
		}
		delay, giveUp := tries.Next(err)
		if giveUp != nil {
			return job.ChunkFailed{Ref: ref, BytesRead: read, Err: giveUp}
		}
		select {
		case d.events <- job.ChunkRetried{Ref: ref, Failed: tries.Failed(), Err: err}:
		case <-ctx.Done():
			return nil
		}
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// try makes one try at a load.
func (d *driver) try(ctx context.Context, c job.Load, dests []Dest) (pieces []job.PieceDone, read int64, err error) {
	if c.From != nil {
		pieces, err = d.node.Copy(ctx, d.spec.ID, c.Ref, *c.From, dests[0])
		return pieces, 0, err
	}
	return d.node.Load(ctx, d.spec.ID, c.Ref, dests)
}

func (d *driver) seal(h job.Hold) job.Event {
	s, err := d.node.Seal(d.ctx, d.spec.ID, h)
	if err != nil {
		return job.SealFailed{Hold: h, Err: err}
	}
	d.mu.Lock()
	d.reports[h.Rank] = s
	d.mu.Unlock()
	return job.Sealed{Hold: h, Digest: s.Digest}
}

// report says how the load went.
func (d *driver) report(started time.Time, seals map[int]SealReport) model.Report {
	plan := d.spec.Plan
	r := model.Report{Job: d.spec.ID, Seconds: time.Since(started).Seconds(), StoredBytes: plan.StoredBytes,
		BytesRead: d.job.BytesRead(), BytesPlaced: plan.PlacedBytes, Retries: d.job.Retries(), SourceVerified: d.job.SourceVerified(), PeakStaging: d.node.PeakStaging(),
		Stages: d.reporter.stages(), Warnings: plan.Warnings}
	for _, n := range plan.Fallbacks {
		r.Fallbacks = append(r.Fallbacks, n.Tensor+" "+n.Reason)
	}
	for i, s := range d.job.Ranks() {
		r.Ranks = append(r.Ranks, model.Rank{Rank: i, Device: s.Hold.Device, Bytes: plan.Ranks[i].ArenaBytes,
			Digest: s.Digest, Fingerprint: plan.Fingerprint(i), Validation: seals[i].Validation})
	}
	return r
}
