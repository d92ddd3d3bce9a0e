package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/cmd/internal/version"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

// cluster returns a client of the cluster that a load goes to: the one of
// --server, or one that is started in this process. stop lets go of it.
func (a *app) cluster(ctx context.Context, f loadFlags) (client *cluster.Client, stop func() error, err error) {
	t, err := a.telemetry(ctx)
	if err != nil {
		return nil, nil, err
	}
	flush := func() error { return t.Shutdown(context.WithoutCancel(ctx)) }
	if a.server != "" {
		nc, err := a.security.Connect(a.server)
		if err != nil {
			return nil, nil, errors.Join(err, flush())
		}
		return cluster.NewClient(nc), func() error { nc.Close(); return flush() }, nil
	}
	cfg, err := f.local()
	if err != nil {
		return nil, nil, errors.Join(err, flush())
	}
	l, err := node.StartLocal(ctx, cfg)
	if err != nil {
		return nil, nil, errors.Join(err, flush())
	}
	return l.Client(), func() error { return errors.Join(l.Close(), flush()) }, nil
}

// local is the cluster in this process that the flags ask for. It opens no
// port.
func (f loadFlags) local() (node.LocalConfig, error) {
	devices, err := device.Parse(f.request.Device)
	if err != nil {
		return node.LocalConfig{}, err
	}
	cfg := node.LocalConfig{Workers: f.workers, Resources: node.Resources{Devices: devices, Staging: int64(f.staging), Mlock: f.mlock, Read: source.Mode(f.read), Cache: f.cache}}
	cfg.WriteRoots = []string{"/"} // nobody else can ask this process to write
	for _, rule := range f.inject {
		if cfg.Inject, err = source.ParseFaults(rule); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// telemetry starts OpenTelemetry as the environment asks, and logs of what
// deserves attention on stderr.
func (a *app) telemetry(ctx context.Context) (*telemetry.Telemetry, error) {
	slog.SetDefault(slog.New(telemetry.LogHandler(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	return telemetry.Start(ctx, telemetry.Options{Service: "gantry", Version: version.Version})
}
