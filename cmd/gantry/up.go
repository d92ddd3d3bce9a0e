package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/spf13/cobra"
)

func (a *app) upCommand() *cobra.Command {
	cfg := node.LocalConfig{Workers: 1}
	staging, memory := defaultStaging, size.Bytes(0)
	var devices string
	var insecure bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run coordinator, worker and NATS on this machine, until stopped",
		Long: `Run a whole cluster in this process: an embedded NATS server, the coordinator
and a worker. It prints one line when it is ready and ends on SIGINT. Without
--state-dir it forgets its jobs when it ends. With --tls-cert, --tls-key and
--tls-ca NATS clients on other machines may connect, who need certificates of
that authority; workers on other machines need a coordinator of their own
(the command coordinator).`,
		Example: `  gantry up &
  gantry load ./model --quant q8_0 --server nats://127.0.0.1:4222
  nats sub 'gantry.v1.>'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			if cfg.Workers < 1 {
				return usagef("--workers %d: want 1 or more", cfg.Workers)
			}
			cfg.Cert, cfg.Key, cfg.CA, cfg.Insecure = a.security.Cert, a.security.Key, a.security.CA, insecure
			if cfg.Devices, err = device.Parse(devices); err != nil {
				return err
			}
			cfg.Staging, cfg.Memory = int64(staging), int64(memory)
			if cfg.Telemetry, err = a.telemetry(ctx); err != nil {
				return err
			}
			l, err := node.StartLocal(ctx, cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.Close()) }()
			fmt.Fprintf(a.stderr, "gantry up ready: pid=%d %s\n", os.Getpid(), l.Line())
			select {
			case <-ctx.Done():
				return nil
			case <-l.Ended():
				return l.Err()
			}
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.NATSListen, "nats-listen", "127.0.0.1:4222", "where NATS clients connect; beyond loopback with --tls-cert, --tls-key and --tls-ca, or --insecure")
	flags.StringVar(&cfg.HTTP, "http", "127.0.0.1:8080", "where /healthz, /readyz and /metrics are served; beyond loopback with --insecure")
	flags.StringVar(&cfg.StateDir, "state-dir", "", "folder for jobs and events (default: a temporary one)")
	flags.IntVar(&cfg.Workers, "workers", 1, "workers in this process")
	flags.StringVar(&devices, "devices", "auto", "devices to place on: auto (GPUs that can be used, else cpu), cpu, cuda, or a list such as cuda:0,cuda:1")
	flags.StringArrayVar(&cfg.WriteRoots, "export-root", nil, "folder that models may be exported to; may be given several times (default: none)")
	flags.Var(&memory, "memory", "memory for arenas (default: what is free)")
	flags.BoolVar(&cfg.Mlock, "mlock", false, "keep arenas from being swapped out; the locked-memory limit (ulimit -l) must allow it")
	flags.Var(&staging, "staging", "staging memory of each worker")
	flags.BoolVar(&insecure, "insecure", false, "allow addresses beyond loopback without TLS")
	return cmd
}
