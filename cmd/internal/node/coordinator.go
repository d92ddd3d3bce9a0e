package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/cmd/internal/version"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

// Embedded is the NATS setting for a server in this process.
const Embedded = "embedded"

// CoordinatorConfig is what a coordinator is started with.
type CoordinatorConfig struct {
	Name       string // "" is made from the host's name and the process id
	NATS       string // Embedded, or the URL of a server
	NATSListen string // of the embedded server; port 0 for any
	Listen     string // of the actors; port 0 for any
	HTTP       string // of health and metrics pages; "" for none
	StateDir   string // of the embedded server; "" is a temporary one
	NATSUsers  string // YAML file with the embedded server's users; "": anybody may connect
	// RepairWait is how long lost ranks of a resident model wait for room; 0 is
	// actors.DefaultRepairWait, less gives the model up at once.
	RepairWait time.Duration
	Inject     *source.Faults // faults for tests; nil is none
	Security
	Telemetry *telemetry.Telemetry // serves /metrics; nil with HTTP ""
	Log       *slog.Logger         // nil is slog.Default
}

// Coordinator is a running coordinator process.
type Coordinator struct {
	name   string
	closer closer
	leader *leader
	nats   *nats.Conn
	// Where it is reached.
	NATSURL, Actors, HTTP string
}

// closer ends what was started, last first.
type closer []func() error

func (c *closer) add(f func() error) { *c = append(*c, f) }

func (c *closer) close() error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		errs = append(errs, (*c)[i]())
	}
	*c = nil
	return errors.Join(errs...)
}

// closing makes a function that returns nothing one for a closer.
func closing(f func()) func() error {
	return func() error { f(); return nil }
}

// StartCoordinator starts a coordinator and returns when it leads, or, with an
// external NATS, when it stands by.
func StartCoordinator(ctx context.Context, cfg CoordinatorConfig) (_ *Coordinator, err error) {
	c := &Coordinator{name: nameOr(cfg.Name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.closer.close())
		}
	}()
	log := logOr(cfg.Log)
	if err := messages.CheckToken("coordinator name", c.name); err != nil {
		return nil, err
	}
	security, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	if err := cfg.checkListen(cfg.Listen, security, log); err != nil {
		return nil, err
	}
	if err := c.connect(cfg, security, log); err != nil {
		return nil, err
	}
	refused, err := refusals(log)
	if err != nil {
		return nil, err
	}
	system, err := actors.NewSystem(actors.SystemOptions{Listen: cfg.Listen, TLS: security, Refused: refused, Log: log})
	if err != nil {
		return nil, err
	}
	c.closer.add(closing(system.Close))
	c.Actors = system.Address()
	if err := c.lead(ctx, system, cfg.RepairWait, cfg.Inject, log); err != nil {
		return nil, err
	}
	if cfg.NATS == Embedded {
		select {
		case <-c.leader.first:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if cfg.HTTP != "" {
		pages, err := telemetry.Serve(cfg.HTTP, telemetry.Pages{Ready: c.ready, Metrics: cfg.Telemetry.Handler(), Insecure: cfg.Insecure})
		if err != nil {
			return nil, err
		}
		c.closer.add(pages.Close)
		c.HTTP = pages.Addr()
	}
	return c, nil
}

// connect starts the embedded NATS server or connects to another.
func (c *Coordinator) connect(cfg CoordinatorConfig, security *tls.Config, log *slog.Logger) (err error) {
	if cfg.NATS != Embedded {
		if cfg.NATSUsers != "" {
			return recovery.Errorf(recovery.Usage, "--nats-users is for the embedded server: %s has its own", cfg.NATS)
		}
		c.NATSURL = cfg.NATS
		if c.nats, err = cfg.connect(cfg.NATS, security, logContact(log)); err != nil {
			return err
		}
		c.closer.add(closing(c.nats.Close))
		return nil
	}
	users, err := readUsers(cfg.NATSUsers)
	if err != nil {
		return err
	}
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		return err
	}
	server, err := cluster.StartServer(cluster.ServerOptions{
		Listen: cfg.NATSListen, StateDir: cfg.StateDir, TLS: security, Insecure: cfg.Insecure, Users: users, Log: log,
		Refused: func() { metrics.Refused(context.Background(), string(recovery.NotAllowed)) },
	})
	if err != nil {
		return err
	}
	c.closer.add(server.Close)
	c.NATSURL = server.URL()
	if c.nats, err = server.Connect(); err != nil {
		return err
	}
	c.closer.add(closing(c.nats.Close))
	return nil
}

// lead opens the cluster and begins to wait for its lease.
func (c *Coordinator) lead(ctx context.Context, system *actors.System, repair time.Duration, faults *source.Faults, log *slog.Logger) error {
	all, err := cluster.Open(ctx, c.nats, cluster.Options{})
	if err != nil {
		return err
	}
	publisher, err := telemetry.NewPublisher(c.nats, "")
	if err != nil {
		return err
	}
	c.closer.add(publisher.Close)
	c.leader = &leader{name: c.name, version: version.Version, system: system, cluster: all, publish: publisher, inject: faults, log: log, repair: repair}
	c.leader.start()
	c.closer.add(closing(c.leader.stop))
	return nil
}

// ready says whether the coordinator can do its work: it leads, or stands by
// with NATS in reach.
func (c *Coordinator) ready() error {
	if !c.nats.IsConnected() {
		return recovery.Errorf(recovery.ClusterLost, "NATS at %s cannot be reached", c.NATSURL)
	}
	return nil
}

// Name is the coordinator's name.
func (c *Coordinator) Name() string { return c.name }

// Client returns a client of this cluster over the coordinator's connection.
func (c *Coordinator) Client() *cluster.Client { return cluster.NewClient(c.nats) }

// Ended is never closed: a coordinator runs until Close.
func (c *Coordinator) Ended() <-chan struct{} { return nil }

// Err is nil.
func (c *Coordinator) Err() error { return nil }

// Line tells the addresses, for the ready line.
func (c *Coordinator) Line() string {
	return fmt.Sprintf("name=%s nats=%s actors=%s http=%s", c.name, c.NATSURL, c.Actors, c.HTTP)
}

// Close gives the lease back and ends everything.
func (c *Coordinator) Close() error { return c.closer.close() }

// nameOr returns the name, or one that no other process of this host has.
func nameOr(name string) string {
	if name != "" {
		return name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	return fmt.Sprintf("%s-%d", messages.Token(host), os.Getpid())
}

func logOr(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.Default()
	}
	return l
}
