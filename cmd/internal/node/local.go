package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/telemetry"
)

// LocalConfig is what a whole cluster in this process is started with. The
// zero value has one worker and opens no port.
type LocalConfig struct {
	Workers    int    // 0 is one
	NATSListen string // "" opens no port
	StateDir   string // of the embedded server; "" is a temporary one
	HTTP       string // of health and metrics pages; "" for none
	Resources         // of each worker; Memory 0 divides what is free
	Security
	Telemetry *telemetry.Telemetry // serves /metrics; nil with HTTP ""
	Log       *slog.Logger         // nil is slog.Default
}

// Local is a cluster in one process: embedded NATS, a coordinator, and workers
// that pass pieces by copying.
type Local struct {
	Coordinator
	closer closer
}

// joinLimit is how long the workers of this process may take to be there.
const joinLimit = 10 * time.Second

// StartLocal starts a cluster in this process and returns when its workers
// can be used.
func StartLocal(ctx context.Context, cfg LocalConfig) (_ *Local, err error) {
	l := &Local{Coordinator: Coordinator{name: "local"}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	log := logOr(cfg.Log)
	security, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	natsConfig := CoordinatorConfig{NATS: Embedded, NATSListen: cfg.NATSListen, StateDir: cfg.StateDir, Security: cfg.Security}
	if err := l.connect(natsConfig, security, log); err != nil {
		return nil, err
	}
	system, err := actors.NewSystem(actors.SystemOptions{Log: log})
	if err != nil {
		return nil, err
	}
	l.Coordinator.closer.add(closing(system.Close))
	if err := l.lead(ctx, system, 0, cfg.Inject, log); err != nil {
		return nil, err
	}
	n := max(cfg.Workers, 1)
	if err := l.startWorkers(ctx, cfg, n, system, log); err != nil {
		return nil, err
	}
	if err := l.await(ctx, n); err != nil {
		return nil, err
	}
	if cfg.HTTP != "" {
		pages, err := telemetry.Serve(cfg.HTTP, telemetry.Pages{Ready: l.ready, Metrics: cfg.Telemetry.Handler(), Insecure: cfg.Insecure})
		if err != nil {
			return nil, err
		}
		l.closer.add(pages.Close)
		l.HTTP = pages.Addr()
	}
	return l, nil
}

// startWorkers starts n workers that reach each other by name.
func (l *Local) startWorkers(ctx context.Context, cfg LocalConfig, n int, system *actors.System, log *slog.Logger) error {
	peers := transfer.Local{}
	var sender transfer.Sender // none where there is nobody to send to
	if n > 1 {
		sender = peers
	}
	nodes := make([]*loader.Node, n)
	for i := range n {
		nodes[i] = cfg.newNode(sender)
		peers[fmt.Sprintf("w%d", i)] = nodes[i]
	}
	for i, node := range nodes {
		info, err := cfg.describe(fmt.Sprintf("w%d", i), n)
		if err != nil {
			return err
		}
		info.Address, info.Transfer = system.Address(), info.Name
		if _, err := join(ctx, &l.closer, system, l.leader.cluster, node, info, n, cfg.Resources, log); err != nil {
			return err
		}
	}
	return nil
}

// await returns when the coordinator leads and knows n workers.
func (l *Local) await(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	select {
	case <-l.leader.first:
	case <-ctx.Done():
		return recovery.Errorf(recovery.ClusterLost, "the coordinator of this process does not lead: %v", ctx.Err())
	}
	client := l.Client()
	for {
		workers, err := client.Workers(ctx)
		if err != nil {
			return err
		}
		if len(workers) >= n {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return recovery.Errorf(recovery.ClusterLost, "%d of %d workers of this process have joined: %v", len(workers), n, ctx.Err())
		}
	}
}

// Close ends the coordinator, the workers, which frees what they hold, and
// then the rest.
func (l *Local) Close() error {
	if l.leader != nil {
		l.leader.stop()
	}
	return errors.Join(l.closer.close(), l.Coordinator.Close())
}
