// Command coordinator plans and leads loads over a cluster of workers.
package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/cmd/internal/daemon"
	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

func main() {
	os.Exit(daemon.Daemon{
		Name:  "coordinator",
		Short: "Plan and lead loads over a cluster of workers.",
		Example: `  coordinator --nats-listen 127.0.0.1:4222 --state-dir ./state
  coordinator --nats-listen 10.0.0.1:4222 --listen 10.0.0.1:0 --tls-cert certs/node.pem --tls-key certs/node.key --tls-ca certs/ca.pem`,
		Flags: func(f *pflag.FlagSet) {
			f.String("name", "", "this coordinator's name (default: host and process id)")
			f.String("nats", node.Embedded, "embedded, or the URL of a NATS server with JetStream")
			f.String("nats-listen", "127.0.0.1:4222", "where the embedded NATS server listens; port 0 for any")
			f.String("nats-users", "", "YAML file with the users of the embedded NATS server (default: anybody who reaches it)")
			f.String("listen", "127.0.0.1:0", "where the coordinator's actors are reached; port 0 for any")
			f.String("http", "127.0.0.1:8080", "where /healthz, /readyz and /metrics are served; empty for nowhere")
			f.Duration("repair-wait", actors.DefaultRepairWait, "how long ranks of a resident model that were lost wait for room; 0 unloads the model at once")
			f.String("state-dir", "", "where the embedded NATS server keeps its state (default: a temporary folder)")
			f.String("inject", "", "faults to inject into the writing of records, for tests")
			if err := f.MarkHidden("inject"); err != nil {
				panic(err) // the flag was defined above
			}
		},
		Start: func(ctx context.Context, s daemon.Settings, t *telemetry.Telemetry) (daemon.Service, error) {
			cfg := node.CoordinatorConfig{
				Name: s.String("name"), NATS: s.String("nats"), NATSListen: s.String("nats-listen"),
				Listen: s.String("listen"), HTTP: s.String("http"), StateDir: s.String("state-dir"), NATSUsers: s.String("nats-users"),
				RepairWait: cmp.Or(s.Duration("repair-wait"), -1), Security: s.Security(), Telemetry: t,
			}
			if rules := s.String("inject"); rules != "" {
				var err error
				if cfg.Inject, err = source.ParseFaults(rules); err != nil {
					return nil, err
				}
				slog.Warn("injecting faults into the writing of records", "rules", rules)
			}
			return node.StartCoordinator(ctx, cfg)
		},
	}.Main())
}
