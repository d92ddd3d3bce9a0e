package node

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

// leader runs a coordinator for as long as this process holds the leader's
// lease, and waits for it otherwise.
type leader struct {
	name    string
	version string
	system  *actors.System
	cluster *cluster.Cluster
	publish *telemetry.Publisher
	inject  *source.Faults // for tests; nil is none
	log     *slog.Logger
	repair  time.Duration // CoordinatorOptions.RepairWait

	leading atomic.Bool
	first   chan struct{} // closed when it leads for the first time
	done    chan struct{}
	cancel  context.CancelFunc
}

// retryLead is the pause after a term that could not begin.
const retryLead = 500 * time.Millisecond

// start begins to wait for the lease. The caller ends it with stop.
func (l *leader) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.first, l.done, l.cancel = make(chan struct{}), make(chan struct{}), cancel
	go func() {
		defer close(l.done)
		for ctx.Err() == nil {
			if err := l.term(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("leadership ended", "name", l.name, "err", err)
				select {
				case <-time.After(retryLead):
				case <-ctx.Done():
				}
			}
		}
	}()
}

// stop gives the lease back and waits until nothing is served any more.
func (l *leader) stop() {
	l.cancel()
	<-l.done
}

// store is where the coordinator keeps its records.
func (l *leader) store() actors.Store {
	if l.inject == nil {
		return store{l.cluster}
	}
	return faultyStore{store{l.cluster}, l.inject}
}

// term waits for the lease, and serves until it is lost or ctx is done.
func (l *leader) term(ctx context.Context) (err error) {
	term, err := l.cluster.Lead(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Resign()) }()
	co, err := l.system.StartCoordinator(ctx, actors.CoordinatorOptions{
		Name: l.name, Version: l.version, Epoch: term.Epoch(), Store: l.store(), Plans: l.cluster.Plans, Publish: l.publish, Log: l.log,
		RepairWait: l.repair,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, co.Stop()) }()
	watching, end := context.WithCancel(ctx)
	defer end()
	members, err := l.cluster.WatchMembers(watching)
	if err != nil {
		return err
	}
	stop, err := l.cluster.Serve(co, l.version, term.Sure)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	l.log.Info("leading", "name", l.name, "epoch", term.Epoch())
	if l.leading.CompareAndSwap(false, true) {
		select {
		case <-l.first:
		default:
			close(l.first)
		}
	}
	defer l.leading.Store(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-term.Context().Done():
			return context.Cause(term.Context())
		case <-term.StoreLost():
			l.log.Warn("NATS has lost its store, what is known of jobs and models is written again", "name", l.name)
			co.StoreLost()
		case e, ok := <-members:
			switch {
			case !ok:
				return ctx.Err()
			case e.Change == cluster.Left:
				co.MemberLost(e.Worker.Name, e.Worker.Incarnation, "its lease ended")
			default:
				co.MemberUp(e.Worker)
			}
		}
	}
}
