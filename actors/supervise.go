package actors

import (
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/recovery"
)

// restart is a supervisor strategy with real exponential back-off (that of
// protoactor is linear and has no cap). A child that panics is a bug; it is
// restarted after a delay that doubles, and stopped after limit restarts.
// Its parent then gets Terminated and reports what the child was to do.
type restart struct {
	limit   int
	backoff recovery.Backoff
	log     *slog.Logger
}

// HandleFailure implements actor.SupervisorStrategy.
func (r restart) HandleFailure(_ *actor.ActorSystem, parent actor.Supervisor, child *actor.PID, stats *actor.RestartStatistics, reason, _ any) {
	stats.Fail()
	n := stats.FailureCount()
	if n > r.limit {
		r.log.Error("an actor panicked too often and is stopped", "actor", child.Id, "panics", n, "reason", reason)
		parent.StopChildren(child)
		return
	}
	delay := r.backoff.Delay(n)
	r.log.Error("an actor panicked and is restarted", "actor", child.Id, "panics", n, "delay", delay, "reason", reason)
	// The child's mailbox is suspended until then. A child that was stopped
	// meanwhile makes this a dead letter.
	time.AfterFunc(delay, func() { parent.RestartChildren(child) })
}

// maxPanics is how often a worker's child is restarted.
const maxPanics = 3

// stopOnPanic is the strategy for children whose state cannot survive a
// panic: they are stopped, and their parent cleans up after them.
func stopOnPanic(log *slog.Logger) actor.SupervisorStrategy { return restart{log: log} }
