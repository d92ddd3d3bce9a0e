package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/placement/placefile"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// loadFlags are the flags of load besides those that shape the plan.
type loadFlags struct {
	request   messages.LoadRequest
	export    string
	quant     quantFlags
	placement string
	require   requireFlags
	limitRate size.Bytes
	staging   size.Bytes
	mlock     bool
	workers   int
	wait      waitFlag
	deadline  time.Duration
	detach    bool
	memcpy    bool
	read      string
	cache     string
	inject    []string
}

// defaultStaging is the staging memory of a worker in this process.
const defaultStaging = size.Bytes(256 << 20)

func (a *app) loadCommand() *cobra.Command {
	f := loadFlags{staging: defaultStaging}
	cmd := &cobra.Command{
		Use:   "load MODEL",
		Short: "Load a checkpoint: plan, read once, transform, place, validate, report",
		Long: `Load a checkpoint. With --server a running cluster does it and the model stays
there; the command waits for the end, or returns at once with --detach. Without
--server everything happens in this process, no port is opened, and the model
is gone when the command ends.`,
		Example: `  gantry load ./model --tp 2 --quant q8_0 --once
  gantry load /models/llama --name prod --tp 4 --server nats://127.0.0.1:4222
  gantry load ./model --quant q4_K_M --quant-override 'model.layers.0=q8_0' --once
  gantry load /models/llama --tp 4 --dp 2 --placement ranks.yaml --server nats://127.0.0.1:4222
  gantry load ./model --quant int8 --once --export ./model-int8
  gantry load ./model --tp 4 --wait-for-workers 4,10m --deadline 1h --server nats://127.0.0.1:4222
  gantry load s3://bucket/llama --once --cache /var/cache/gantry
  gantry load ./model --quant int8 --json | jq .read_amplification`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.request.URI = args[0]
			return a.load(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.request.Name, "name", "", "the model's name (default: that of its folder or file)")
	flags.BoolVar(&f.request.Once, "once", false, "unload when it is ready: load, validate, report")
	f.register(flags)
	return cmd
}

// register adds the flags that every load has.
func (f *loadFlags) register(flags *pflag.FlagSet) {
	planFlags(flags, &f.request.Options)
	f.quant.register(flags, "quant")
	f.require.register(flags)
	flags.StringVar(&f.request.Device, "device", "auto", "devices to place on: auto (GPUs that can be used, else cpu), cpu, cuda, cuda:N, or a list")
	flags.StringVar(&f.placement, "placement", "", "YAML or JSON `FILE` that says which ranks go to which workers and devices; the others are placed as auto does")
	flags.StringVar(&f.request.Recovery, "recovery", "recover", "what to do about failures: recover, retry(N), fail-fast")
	flags.BoolVar(&f.request.Validate, "validate", false, "count NaN and Inf too, in what was stored and in what is placed")
	flags.Var(&f.limitRate, "limit-rate", "read at most so many bytes a second, each worker")
	flags.Var(&f.staging, "staging", "staging memory of each worker in this process (without --server)")
	flags.IntVar(&f.workers, "workers", 1, "workers in this process (without --server)")
	flags.Var(&f.wait, "wait-for-workers", "wait for so many workers, for so long, or both (3,2m), before a load that does not fit fails (with --server)")
	flags.DurationVar(&f.deadline, "deadline", 0, "fail a load that is not ready after so long, such as 10m")
	flags.IntVar(&f.request.RetryBudget, "retry-budget", 0, "failed tries at the source that the whole load may have, beyond those that successes make up for (default: 64)")
	flags.BoolVar(&f.mlock, "mlock", false, "keep what is placed from being swapped out (without --server); the locked-memory limit must allow it")
	flags.StringVar(&f.read, "read", "auto", "how local files are read (without --server): auto, mmap, pread, direct")
	flags.StringVar(&f.cache, "cache", "", "folder that keeps what is read of a remote model (without --server)")
	flags.BoolVar(&f.detach, "detach", false, "print the job's id and return (with --server)")
	flags.StringVar(&f.export, "export", "", "write the model when it is ready: to a folder, as safetensors, or to a .gguf `FILE`")
	flags.BoolVar(&f.memcpy, "memcpy", false, "measure memcpy afterwards and compare the load's rate with it")
	flags.StringArrayVar(&f.inject, "inject", nil, "inject a fault into the source, for tests")
	if err := flags.MarkHidden("inject"); err != nil {
		panic(err) // the flag was defined above
	}
}

// check reports flags that make no sense, and completes the request.
func (f *loadFlags) check(server bool) error {
	switch {
	case f.detach && !server:
		return usagef("--detach needs --server: without one the model lives in this process only")
	case f.detach && f.export != "":
		return usagef("--export waits for the model, --detach does not: run gantry export when it is ready")
	case f.workers < 1 || f.workers > 64:
		return usagef("--workers %d: want 1 to 64", f.workers)
	case f.wait.set() && !server:
		return usagef("--wait-for-workers needs --server: no others join the workers of this process")
	case f.deadline < 0:
		return usagef("--deadline %s: want a time such as 10m", f.deadline)
	case server && (f.read != "auto" || f.cache != "" || f.mlock || f.staging != defaultStaging):
		return usagef("--read, --cache, --mlock and --staging are for loads in this process: give them to the workers of a cluster")
	case server && (f.workers != 1 || len(f.inject) > 0):
		return usagef("--workers and --inject are for loads in this process, not with --server")
	}
	f.request.WaitWorkers, f.request.WaitSeconds = f.wait.workers, f.wait.limit.Seconds()
	f.request.DeadlineSeconds = f.deadline.Seconds()
	var err error
	if f.request.Require, err = f.require.parse(); err != nil {
		return err
	}
	if _, err := device.Parse(f.request.Device); err != nil {
		return err
	}
	if f.placement != "" {
		if f.request.Placement, err = placefile.Read(f.placement); err != nil {
			return err
		}
		if err := placement.Check(f.request.Placement, f.request.Options.Layout.Ranks()); err != nil {
			return err
		}
	}
	if err := (source.Options{Mode: source.Mode(f.read)}).Validate(); err != nil {
		return err
	}
	if _, err := recovery.Parse(f.request.Recovery); err != nil {
		return err
	}
	c, err := f.quant.config()
	if err != nil {
		return err
	}
	f.request.InPlace = c.InPlace
	return apply(c, &f.request.Options)
}

// load submits a job, shows its progress, and prints its report.
func (a *app) load(ctx context.Context, f loadFlags) error {
	if err := f.check(a.server != ""); err != nil {
		return err
	}
	q := f.request
	q.Job, q.LimitRate = newJobID(), int64(f.limitRate)
	if !strings.Contains(q.URI, "://") {
		abs, err := filepath.Abs(q.URI) // a worker has another working folder
		if err != nil {
			return err
		}
		q.URI = abs
	}
	client, stop, err := a.cluster(ctx, f)
	if err != nil {
		return err
	}
	defer func() {
		if err := stop(); err != nil {
			fmt.Fprintln(a.stderr, "gantry:", err)
		}
	}()
	if f.detach {
		j, err := submit(ctx, client, q)
		if err != nil {
			return err
		}
		return a.print(j, func(w io.Writer) error { _, err := fmt.Fprintln(w, j.Job); return err })
	}
	if f.export != "" {
		return a.loadAndExport(ctx, client, q, f)
	}
	j, err := a.follow(ctx, client, q)
	if err != nil {
		return err
	}
	if err := a.report(j, nil, f.memcpy); err != nil {
		return err
	}
	return outcome(j)
}

// loadAndExport loads a model and has it written when it is ready. What no file
// can hold is refused before anything is loaded. The load is reported also where
// the export fails.
func (a *app) loadAndExport(ctx context.Context, client *cluster.Client, q messages.LoadRequest, f loadFlags) error {
	_, err := containerOf(f.export).plan(&q.Options.Overrides, func() (*shard.Plan, error) {
		return client.Plan(ctx, messages.LoadRequest{URI: q.URI, Options: q.Options})
	})
	if err != nil {
		return err
	}
	q.Once = false // it is written first
	j, err := a.follow(ctx, client, q)
	if err != nil {
		return err
	}
	if j.State != messages.StateReady {
		if err := a.report(j, nil, false); err != nil {
			return err
		}
		return outcome(j)
	}
	x, err := a.exportModel(ctx, client, j.Model, f.export)
	if f.request.Once {
		_, unloading := client.Unload(context.WithoutCancel(ctx), j.Model)
		err = cmp.Or(err, unloading)
	}
	written := &x
	if x.Export == "" { // the cluster did not take it on
		written = nil
	}
	return errors.Join(err, a.report(j, written, f.memcpy && err == nil))
}

// submit asks for a load, or a swap.
func submit(ctx context.Context, client *cluster.Client, q messages.LoadRequest) (messages.Job, error) {
	if q.Replace {
		return client.Swap(ctx, q)
	}
	return client.Load(ctx, q)
}

// cancelPatience is how long an interrupted load may take to end.
const cancelPatience = 10 * time.Second

// follow submits a load and shows its progress until it has ended. When ctx
// is done it cancels the job, and still waits for its end.
func (a *app) follow(ctx context.Context, client *cluster.Client, q messages.LoadRequest) (messages.Job, error) {
	j, err := submit(ctx, client, q)
	if err != nil {
		return j, err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	notices, err := client.WatchJob(watching, j.Job)
	if err != nil {
		return j, err
	}
	view := a.newView()
	defer view.close()
	done := ctx.Done()
	for {
		select {
		case <-done:
			done = nil
			if client.Away() {
				return j, untold(j.Job)
			}
			var giveUp context.CancelFunc
			watching, giveUp = context.WithTimeout(watching, cancelPatience)
			defer giveUp()
			if _, err := client.Cancel(watching, j.Job, "interrupted"); err != nil {
				return j, err
			}
			context.AfterFunc(watching, stop)
		case n, ok := <-notices:
			if !ok {
				return j, recovery.Errorf(recovery.ClusterLost, "job %s: lost sight of it before its end", j.Job)
			}
			if n.Err != nil {
				return j, n.Err
			}
			show(view, n)
			if done == nil && n.Contact == cluster.NATSAway {
				return j, untold(j.Job)
			}
			if n.Job != nil {
				if j = *n.Job; j.State.Final() {
					return j, nil
				}
			}
		}
	}
}

// untold is the error of an interrupt that the cluster cannot be told of.
func untold(job string) error {
	return &recovery.Error{Class: recovery.Cancelled, Op: "interrupted", Err: fmt.Errorf("NATS is away, so job %s may still be running", job),
		Hint: "when NATS is back: gantry cancel " + job + " --server …"}
}

// report prints a job's end, where the model was exported to or why it was not,
// and how the load's rate compares with memcpy's.
func (a *app) report(j messages.Job, x *messages.Export, memcpy bool) error {
	text := func(w io.Writer) error {
		if err := writeReport(w, j); err != nil || x == nil {
			return err
		}
		if x.State != messages.StateReady {
			_, err := fmt.Fprintf(w, "\nnot written to %s: %s\n", x.Path, orElse(x.Why, "the export has not ended"))
			return err
		}
		_, err := fmt.Fprintf(w, "\nwritten to %s after %.2f s\n", x.Path, x.Seconds)
		return err
	}
	if !memcpy || j.State != messages.StateReady {
		return a.print(struct {
			messages.Job
			Export *messages.Export `json:"export,omitempty"`
		}{j, x}, text)
	}
	one, all, err := memcpyRates()
	if err != nil {
		return err
	}
	rate := loadRate(j)
	withLimits := struct {
		messages.Job
		Export    *messages.Export `json:"export,omitempty"`
		MemcpyOne float64          `json:"memcpy_bytes_per_s"`           // on one core
		MemcpyAll float64          `json:"memcpy_all_cores_bytes_per_s"` // on all
		RatioOne  float64          `json:"rate_to_memcpy"`
		RatioAll  float64          `json:"rate_to_memcpy_all_cores"`
	}{j, x, one, all, rate / one, rate / all}
	return a.print(withLimits, func(w io.Writer) error {
		if err := text(w); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "\nthe load phase read %s/s: %.2f of memcpy (%s/s), %.2f of memcpy on all cores at once (%s/s)\n",
			size.Format(int64(rate)), rate/one, size.Format(int64(one)), rate/all, size.Format(int64(all)))
		return err
	})
}

// outcome is the error that a job's end stands for.
func outcome(j messages.Job) error {
	switch j.State {
	case messages.StateReady:
		return nil
	case messages.StateCancelled:
		return &recovery.Error{Class: recovery.Cancelled, Op: "job " + j.Job, Err: errors.New(orElse(j.Why, "cancelled"))}
	}
	return &recovery.Error{Class: j.Class, Op: "load " + j.URI, Err: errors.New(orElse(j.Why, "failed"))}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// newJobID returns an id that no other job has: the time, so that ids sort,
// and 40 random bits.
func newJobID() string {
	var b [5]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // never on Linux
	}
	return time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}
