package actors

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// ask runs a question in the coordinator's actor and waits for its answer.
func ask[T any](ctx context.Context, c *Coordinator, answer func(a *coordinator, c actor.Context) (any, error)) (T, error) {
	return askLater[T](ctx, c, func(a *coordinator, ac actor.Context, to chan<- reply) {
		v, err := answer(a, ac)
		to <- reply{v, err}
	})
}

// askLater is ask for a question whose answer comes later.
func askLater[T any](ctx context.Context, c *Coordinator, begin func(*coordinator, actor.Context, chan<- reply)) (value T, err error) {
	to := make(chan reply, 1) // the actor never waits for who has gone
	c.system.root.Send(c.pid, call(func(ac actor.Context) { begin(c.state, ac, to) }))
	select {
	case r := <-to:
		if r.err != nil {
			return value, r.err
		}
		return r.value.(T), nil
	case <-ctx.Done():
		return value, recovery.Errorf(recovery.Timeout, "the coordinator does not answer: %v", context.Cause(ctx))
	case <-c.state.ctx.Done():
		return value, recovery.Errorf(recovery.ClusterLost, "the coordinator is stopping")
	}
}

// Load submits a job and returns at once. The same job id again returns the
// job there is. A model name that is taken is class usage.
func (c *Coordinator) Load(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	if err := complete(&q); err != nil {
		return messages.Job{}, err
	}
	return ask[messages.Job](ctx, c, func(a *coordinator, ac actor.Context) (any, error) {
		if e := a.jobs[q.Job]; e != nil {
			return e.job, nil
		}
		if err := a.nameFree(q); err != nil {
			return nil, err
		}
		rec := messages.Job{
			Job: q.Job, Model: q.Name, URI: q.URI, Options: q.Options, Request: &q,
			State: messages.StatePlanning, Stage: progress.Initializing, Epoch: a.o.Epoch, Submitted: time.Now(),
			Ranks: []messages.Rank{}, Stages: []messages.StageTime{},
		}
		return rec, a.spawn(ac, rec, 0, q, ctx, nil)
	})
}

// Swap submits a load whose model takes the place of the resident one of its
// name when all of its ranks are ready. Until then, and where the load fails,
// that one stays as it is. Class not_found: there is none.
func (c *Coordinator) Swap(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	q.Replace = true
	return c.Load(ctx, q)
}

// nameFree fails where a model of this name is resident or being loaded, or,
// for one that is to be replaced, is not resident.
func (a *coordinator) nameFree(q messages.LoadRequest) error {
	m := a.models[q.Name]
	if m == nil && q.Replace {
		return &recovery.Error{Class: recovery.NotFound, Op: "swap", File: q.URI,
			Err: recovery.Errorf(recovery.NotFound, "no model named %q is resident", q.Name), Hint: "see `gantry models`, or load it"}
	}
	if m != nil && m.State == messages.StateRepairing {
		return &recovery.Error{Class: recovery.Unavailable, Op: "load", File: q.URI,
			Err: recovery.Errorf(recovery.Unavailable, "model %s is being repaired: %s", q.Name, m.Why), Hint: "wait for it, or unload it"}
	}
	if m != nil && !q.Replace {
		return &recovery.Error{Class: recovery.Usage, Op: "load", File: q.URI,
			Err: recovery.Errorf(recovery.Usage, "a model named %s is resident, of job %s", q.Name, m.Job), Hint: "swap it, unload it or choose another --name"}
	}
	for _, e := range a.jobs {
		if e.pid != nil && e.job.Model == q.Name {
			return &recovery.Error{Class: recovery.Usage, Op: "load", File: q.URI,
				Err: recovery.Errorf(recovery.Usage, "job %s is loading a model named %s", e.job.Job, q.Name), Hint: "wait for it or choose another --name"}
		}
	}
	return nil
}

// complete checks a request and fills in what it leaves out.
func complete(q *messages.LoadRequest) error {
	if q.URI == "" {
		return recovery.Errorf(recovery.Usage, "load: the request names no model (uri)")
	}
	if q.Job == "" {
		var b [8]byte
		rand.Read(b[:]) // never fails
		q.Job = hex.EncodeToString(b[:])
	}
	if err := messages.CheckToken("job id", q.Job); err != nil {
		return err
	}
	if q.Replace && (q.Name == "" || q.Once) {
		return recovery.Errorf(recovery.Usage, "swap: name the model to replace (name), which is for one that stays (not once)")
	}
	if q.Name == "" {
		q.Name = nameFor(q.URI)
	}
	if len(q.Name) > 200 || strings.ContainsAny(q.Name, "/\\\n\r\t\x00") {
		return recovery.Errorf(recovery.Usage, "load: %q cannot be a model's name: at most 200 characters, no slash", q.Name)
	}
	if q.LimitRate < 0 {
		return recovery.Errorf(recovery.Usage, "load: a rate limit of %d bytes per second", q.LimitRate)
	}
	if err := checkPatience(q); err != nil {
		return err
	}
	if _, err := recovery.Parse(q.Recovery); err != nil {
		return err
	}
	if err := q.Require.Validate(); err != nil {
		return err
	}
	if err := q.Options.Validate(); err != nil {
		return err
	}
	return placement.Check(q.Placement, q.Options.Layout.Ranks())
}

// longest is the longest wait or deadline, in seconds.
const longest = 7 * 24 * 3600

// checkPatience checks how long a load may wait, take, and fail.
func checkPatience(q *messages.LoadRequest) error {
	switch {
	case !(q.WaitSeconds >= 0 && q.WaitSeconds <= longest) || q.WaitWorkers < 0:
		return recovery.Errorf(recovery.Usage, "load: to wait %g s for %d workers: want at most a week, and none below 0", q.WaitSeconds, q.WaitWorkers)
	case q.WaitWorkers > 0 && q.WaitSeconds == 0:
		return recovery.Errorf(recovery.Usage, "load: to wait for %d workers: say how long (wait_seconds)", q.WaitWorkers)
	case !(q.DeadlineSeconds >= 0 && q.DeadlineSeconds <= longest):
		return recovery.Errorf(recovery.Usage, "load: a deadline of %g s: want at most a week", q.DeadlineSeconds)
	case q.RetryBudget < 0:
		return recovery.Errorf(recovery.Usage, "load: a retry budget of %d: want 1 or more, or 0 for the default", q.RetryBudget)
	}
	return nil
}

// nameFor names a model after its folder or file.
func nameFor(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.Path != "" {
		uri = u.Path
	}
	name := path.Base(strings.TrimRight(uri, "/"))
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".index.json"), path.Ext(name))
	if name == "" || name == "." || name == "/" {
		return "model"
	}
	return name
}

// Plan returns what a load would do.
func (c *Coordinator) Plan(ctx context.Context, q messages.LoadRequest) (*shard.Plan, error) {
	if err := complete(&q); err != nil {
		return nil, err
	}
	workers, err := c.Workers(ctx)
	if err != nil {
		return nil, err
	}
	if len(workers) == 0 {
		return nil, recovery.Errorf(recovery.OutOfCapacity, "plan %s: no worker is in the cluster to open it", q.URI)
	}
	p := planner{c.system, c.state.o.Plans, c.state.o.Epoch, recovery.Recover()}
	out := p.plan(ctx, "", q.URI, q.Options, workers)
	return out.plan, out.err
}

// Status returns a job, the newest where the request names none.
func (c *Coordinator) Status(ctx context.Context, q messages.JobRequest) (messages.Job, error) {
	return ask[messages.Job](ctx, c, func(a *coordinator, _ actor.Context) (any, error) {
		e, err := a.find(q.Job)
		if err != nil {
			return nil, err
		}
		return e.job, nil
	})
}

// find returns a job by id, the newest for "".
func (a *coordinator) find(id string) (*jobEntry, error) {
	if id != "" {
		if e := a.jobs[id]; e != nil {
			return e, nil
		}
		return nil, recovery.Errorf(recovery.NotFound, "there is no job %s", id)
	}
	var newest *jobEntry
	for _, e := range a.jobs {
		if newest == nil || e.job.Submitted.After(newest.job.Submitted) {
			newest = e
		}
	}
	if newest == nil {
		return nil, recovery.Errorf(recovery.NotFound, "there is no job yet")
	}
	return newest, nil
}

// Jobs returns all jobs, newest first.
func (c *Coordinator) Jobs(ctx context.Context) ([]messages.Job, error) {
	return ask[[]messages.Job](ctx, c, func(a *coordinator, _ actor.Context) (any, error) {
		all := make([]messages.Job, 0, len(a.jobs))
		for _, e := range a.jobs {
			all = append(all, e.job)
		}
		slices.SortFunc(all, func(x, y messages.Job) int {
			return cmp.Or(y.Submitted.Compare(x.Submitted), cmp.Compare(x.Job, y.Job))
		})
		return all, nil
	})
}

// Cancel asks a job to stop and returns it as it is now. A job that has ended
// stays as it ended. The request must name the job: the newest may be anybody's.
func (c *Coordinator) Cancel(ctx context.Context, q messages.JobRequest) (messages.Job, error) {
	if q.Job == "" {
		return messages.Job{}, recovery.Errorf(recovery.Usage, "cancel: which job is not said (see `gantry jobs`)")
	}
	return ask[messages.Job](ctx, c, func(a *coordinator, ac actor.Context) (any, error) {
		e, err := a.find(q.Job)
		if err != nil {
			return nil, err
		}
		if e.pid != nil {
			ac.Send(e.pid, cancelJob{q.Reason})
		}
		return e.job, nil
	})
}

// Models returns the resident models, by name.
func (c *Coordinator) Models(ctx context.Context) ([]messages.Model, error) {
	return ask[[]messages.Model](ctx, c, func(a *coordinator, _ actor.Context) (any, error) {
		all := make([]messages.Model, 0, len(a.models))
		for _, m := range a.models {
			all = append(all, m.Model)
		}
		slices.SortFunc(all, func(x, y messages.Model) int { return cmp.Compare(x.Name, y.Name) })
		return all, nil
	})
}

// Unload frees a resident model, and returns what it was when its memory is
// free.
func (c *Coordinator) Unload(ctx context.Context, q messages.ModelRequest) (messages.Model, error) {
	return askLater[messages.Model](ctx, c, func(a *coordinator, ac actor.Context, to chan<- reply) {
		m := a.models[q.Name]
		if m == nil {
			to <- reply{err: recovery.Errorf(recovery.NotFound, "no model named %q is resident", q.Name)}
			return
		}
		if e := a.jobs[m.Job]; e != nil && e.pid != nil { // it is being repaired
			e.after = append(e.after, func() { to <- reply{value: m.Model} })
			ac.Send(e.pid, cancelJob{"unloaded"})
			return
		}
		a.unload(ac, m, to)
	})
}

// Workers returns the members, by name.
func (c *Coordinator) Workers(ctx context.Context) ([]messages.Worker, error) {
	return ask[[]messages.Worker](ctx, c, func(a *coordinator, _ actor.Context) (any, error) {
		all := make([]messages.Worker, 0, len(a.members))
		for _, m := range a.members {
			all = append(all, a.less(m.Worker))
		}
		slices.SortFunc(all, func(x, y messages.Worker) int { return cmp.Compare(x.Name, y.Name) })
		return all, nil
	})
}

// less returns a worker with what is free of its devices now.
func (a *coordinator) less(w messages.Worker) messages.Worker {
	a.ledger.Lock()
	defer a.ledger.Unlock()
	w.Devices = slices.Clone(w.Devices)
	for _, holds := range a.ledger.held {
		for h, bytes := range holds {
			for i := range w.Devices {
				if h.Worker == lifeOf(w) && h.Device == w.Devices[i].ID {
					w.Devices[i].Free -= bytes
				}
			}
		}
	}
	return w
}
