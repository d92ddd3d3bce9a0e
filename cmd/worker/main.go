// Command worker holds arenas on this machine's devices and fills them as a
// coordinator asks.
package main

import (
	"context"
	"log/slog"
	"os"
	"runtime"

	"github.com/spf13/pflag"

	"github.com/gantry-ml/gantry/cmd/internal/daemon"
	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

func main() {
	os.Exit(daemon.Daemon{
		Name:  "worker",
		Short: "Hold arenas on this machine's devices and fill them as a coordinator asks.",
		Example: `  worker --nats nats://127.0.0.1:4222 --name a --memory 8GiB --model-root /models
  worker --nats nats://10.0.0.1:4222 --listen 10.0.0.2:0 --tls-cert certs/node.pem --tls-key certs/node.key --tls-ca certs/ca.pem`,
		Flags: flags,
		Start: start,
	}.Main())
}

func flags(f *pflag.FlagSet) {
	f.String("name", "", "this worker's name, which stays over restarts (default: host and process id)")
	f.String("nats", "", "URL of the cluster's NATS server, such as nats://127.0.0.1:4222")
	f.String("listen", "127.0.0.1:0", "where the worker's actors are reached; port 0 for any")
	f.String("devices", "auto", "devices to place on: auto (GPUs that can be used, else cpu), cpu, cuda, or a list such as cuda:0,cuda:1")
	f.Int("cpu-ranks", 0, "at most so many ranks on the CPU (default: as many as fit)")
	f.String("memory", "", "memory for arenas on the CPU, such as 8GiB (default: what is free)")
	f.Bool("mlock", false, "keep arenas from being swapped out; the locked-memory limit (ulimit -l) must allow it")
	f.String("staging", "256MiB", "budget for staging memory")
	f.StringArray("model-root", nil, "folder that models may be read from; may be given several times (default: any)")
	f.StringArray("export-root", nil, "folder that models may be exported to; may be given several times (default: none)")
	f.StringArray("allow-host", nil, "host that remote models may be read from, a name, an address or *.domain; may be given several times (default: none with --model-root, else any but link-local ones)")
	f.String("read", "auto", "how local files are read: auto, mmap, pread, direct")
	f.String("cache", "", "folder that keeps what is read of remote models (default: none; nothing is ever removed from it)")
	f.Bool("peer-stream", false, "send pieces over their streams also to workers of this machine, which otherwise take them from this process's memory")
	f.String("peer-rate", "", "send at most so many bytes a second to other workers on average, such as 500MiB (default: no limit)")
	f.String("http", "127.0.0.1:0", "where /healthz, /readyz and /metrics are served; empty for nowhere")
	f.String("inject", "", "faults to inject into sources and ranks, for tests")
	if err := f.MarkHidden("inject"); err != nil {
		panic(err) // the flag was defined above
	}
}

func start(ctx context.Context, s daemon.Settings, t *telemetry.Telemetry) (daemon.Service, error) {
	// As many chunks as there are cores are transformed at once, and none of
	// them gives way to the network: its goroutines have a thread besides.
	cores := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(cores + 1)
	cfg := node.WorkerConfig{
		Name: s.String("name"), NATS: s.String("nats"), Listen: s.String("listen"), HTTP: s.String("http"),
		PeerStream: s.Bool("peer-stream"),
		Resources:  node.Resources{Parallel: cores, CPURanks: s.Int("cpu-ranks"), Mlock: s.Bool("mlock"), ModelRoots: s.Strings("model-root"), AllowHosts: s.Strings("allow-host"), WriteRoots: s.Strings("export-root")},
		Security:   s.Security(), Telemetry: t,
	}
	if cfg.NATS == "" {
		return nil, recovery.Errorf(recovery.Usage, "--nats is needed: the URL that the coordinator's ready line shows")
	}
	if cfg.CPURanks < 0 {
		return nil, recovery.Errorf(recovery.Usage, "--cpu-ranks %d: want 0 or more", cfg.CPURanks)
	}
	cfg.Cache = s.String("cache")
	cfg.Read = source.Mode(s.String("read"))
	err := source.Options{Mode: cfg.Read}.Validate()
	if err != nil {
		return nil, err
	}
	if cfg.Devices, err = device.Parse(s.String("devices")); err != nil {
		return nil, err
	}
	if m := s.String("memory"); m != "" {
		if cfg.Memory, err = size.Parse(m); err != nil {
			return nil, recovery.Errorf(recovery.Usage, "--memory: %w", err)
		}
	}
	if r := s.String("peer-rate"); r != "" {
		if cfg.PeerRate, err = size.Parse(r); err != nil {
			return nil, recovery.Errorf(recovery.Usage, "--peer-rate: %w", err)
		}
		if cfg.PeerRate <= 0 {
			return nil, recovery.Errorf(recovery.Usage, "--peer-rate %q: want more than 0 bytes a second, or no such flag for no limit", r)
		}
	}
	if cfg.Staging, err = size.Parse(s.String("staging")); err != nil {
		return nil, recovery.Errorf(recovery.Usage, "--staging: %w", err)
	}
	if rules := s.String("inject"); rules != "" {
		if cfg.Inject, err = source.ParseFaults(rules); err != nil {
			return nil, err
		}
		slog.Warn("injecting faults", "rules", rules)
	}
	return node.StartWorker(ctx, cfg)
}
