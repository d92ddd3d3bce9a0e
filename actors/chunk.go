package actors

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/recovery"
)

// tracer makes the spans of loads.
func tracer() trace.Tracer { return otel.Tracer("github.com/gantry-ml/gantry/actors") }

// chunkTask is an attempt at a chunk. The Worker owns it; what the Chunk
// actor learns and must not lose in a restart is in it too, and is read by
// the Worker only after the actor has reported.
type chunkTask struct {
	job     *heldJob
	ref     job.Ref
	dests   []loader.Dest
	from    *job.Hold // of a copy
	pid     *actor.PID
	started time.Time
	ctx     context.Context
	revoked bool // it has been told to end

	failed   int   // tries that failed
	read     int64 // stored bytes read, by all tries
	panicked error // the last panic
}

func (t *chunkTask) attempt() attempt { return attempt{t.ref.Chunk, t.ref.Attempt} }

// What a Chunk tells its Worker.
type (
	chunkRetried struct {
		task   *chunkTask
		failed int
		err    error
	}
	chunkEnded struct {
		task   *chunkTask
		pieces []job.PieceDone
		err    error
	}
)

// chunkActor is the Chunk actor: it makes one attempt, of as many tries as the
// job's strategy allows, with exponential back-off and jitter between them,
// tells its parent the outcome and stops. An error is a message to it; a
// panic of the data path is passed on as its own, so that its supervisor
// restarts it and the chunk is tried again.
type chunkActor struct {
	task   *chunkTask
	worker *worker
	try    int  // numbers tries, so that none is heard that is over
	last   bool // no other follows: it is revoked
	cancel context.CancelFunc
	span   trace.Span
	again  *time.Timer
}

// tried is the outcome of one try.
type tried struct {
	try    int
	pieces []job.PieceDone
	read   int64
	err    error
	panic  any
}

// tryAgain ends a back-off; revoked ends the attempt.
type (
	tryAgain struct{}
	revoked  struct{}
)

// Receive implements actor.Actor.
func (a *chunkActor) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started, tryAgain:
		a.start(c)
	case revoked:
		a.revoke(c)
	case tried:
		if m.try == a.try {
			a.heard(c, m)
		}
	case *actor.Stopping, *actor.Restarting:
		a.quit()
	}
}

// start makes a try in a goroutine.
func (a *chunkActor) start(c actor.Context) {
	t := a.task
	if a.last {
		a.end(c, chunkEnded{task: t, err: errRevoked})
		return
	}
	if a.span == nil {
		_, a.span = tracer().Start(t.ctx, "chunk", trace.WithAttributes(
			attribute.String("gantry.job", t.job.spec.ID), attribute.Int("gantry.chunk", t.ref.Chunk),
			attribute.Int64("gantry.attempt", int64(t.ref.Attempt)), attribute.String("gantry.worker", t.ref.Worker.Name)))
	}
	a.try++
	ctx, cancel := context.WithCancel(trace.ContextWithSpan(t.job.ctx, a.span))
	a.cancel = cancel
	self, w, n := c.Self(), a.worker, a.try
	w.jobDo(t.job, func() {
		defer cancel()
		out := tried{try: n}
		defer func() {
			if p := recover(); p != nil {
				out.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			w.system.root.Send(self, out)
		}()
		if t.from != nil {
			out.pieces, out.err = w.Node.Copy(ctx, t.job.spec.ID, t.ref, *t.from, t.dests[0])
		} else {
			out.pieces, out.read, out.err = w.Node.Load(ctx, t.job.spec.ID, t.ref, t.dests)
		}
	})
}

// revoke ends the try under way, whose outcome is still heard, or the attempt
// where it waits for the next.
func (a *chunkActor) revoke(c actor.Context) {
	if a.again != nil && a.again.Stop() {
		a.end(c, chunkEnded{task: a.task, err: errRevoked})
		return
	}
	a.last = true
	a.cancel()
}

var errRevoked = recovery.Errorf(recovery.Cancelled, "revoked")

// heard decides about the outcome of a try.
func (a *chunkActor) heard(c actor.Context, m tried) {
	t := a.task
	t.read += m.read
	switch {
	case m.panic != nil && a.last:
		a.end(c, chunkEnded{task: t, err: errRevoked})
	case m.panic != nil:
		t.failed++
		t.panicked = recovery.Errorf(recovery.Internal, "chunk %d: the data path panicked: %.200v", t.ref.Chunk, m.panic)
		c.Send(c.Parent(), chunkRetried{t, t.failed, t.panicked})
		panic(m.panic) // a bug: the supervisor restarts this actor
	case m.err == nil:
		a.end(c, chunkEnded{task: t, pieces: m.pieces})
	default:
		t.failed++
		a.span.AddEvent("try failed", trace.WithAttributes(attribute.String("error.type", string(recovery.ClassOf(m.err)))))
		s := t.job.spec.Strategy
		if a.last || s.ActionFor(m.err, t.failed) != recovery.ActionRetry {
			a.end(c, chunkEnded{task: t, err: m.err})
			return
		}
		c.Send(c.Parent(), chunkRetried{t, t.failed, m.err})
		self, root := c.Self(), a.worker.system.root
		a.again = time.AfterFunc(s.Backoff.Delay(t.failed), func() { root.Send(self, tryAgain{}) })
	}
}

// end tells the parent and stops.
func (a *chunkActor) end(c actor.Context, m chunkEnded) {
	if m.err != nil {
		a.span.SetStatus(codes.Error, m.err.Error())
	}
	a.span.SetAttributes(attribute.Int64("gantry.bytes_read", a.task.read), attribute.Int("gantry.retries", a.task.failed))
	c.Send(c.Parent(), m)
	c.Stop(c.Self())
}

// quit ends what is under way.
func (a *chunkActor) quit() {
	a.try++ // no outcome counts any more
	if a.again != nil {
		a.again.Stop()
	}
	if a.cancel != nil {
		a.cancel()
	}
	if a.span != nil {
		a.span.End()
		a.span = nil
	}
}
