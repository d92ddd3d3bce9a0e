package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/actors"
	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/cmd/internal/version"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/internal/transfer"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/telemetry"
)

// Resources is what a worker may use. The zero value is all of this machine.
type Resources struct {
	Devices    device.Selection // the zero value chooses
	CPURanks   int              // at most so many ranks on the CPU; 0 is as many as fit
	Mlock      bool             // arenas are kept from being swapped out
	Memory     int64            // for arenas on the CPU, bytes; 0 is what is free
	Parallel   int              // chunks transformed at once; 0 is GOMAXPROCS
	Staging    int64            // budget for staging memory, bytes; 0 is loader.DefaultStaging
	ModelRoots []string         // folders that it may read
	Read       source.Mode      // how local files are read; "" chooses
	Cache      string           // folder for what is read of remote sources; "" for nowhere
	AllowHosts []string         // hosts that it may read from; without any of the two lists, any
	WriteRoots []string         // folders that it may write exports to; none: it writes none
	Inject     *source.Faults   // faults for tests; nil is none
}

// WorkerConfig is what a worker is started with.
type WorkerConfig struct {
	Name   string // "" is made from the host's name and the process id
	NATS   string // URL
	Listen string // of the actors, port 0 for any; pieces are received at the same host
	HTTP   string // of health and metrics pages; "" for none
	// PeerStream sends pieces over their streams also to workers of this
	// machine, which otherwise take them from this process's memory.
	PeerStream bool
	PeerRate   int64 // bytes a second that are sent to other workers, on average; 0 is no limit
	Resources
	Security
	Telemetry *telemetry.Telemetry // serves /metrics; nil with HTTP ""
	Log       *slog.Logger         // nil is slog.Default
}

// Worker is a running worker process.
type Worker struct {
	closer closer
	nats   *nats.Conn
	member *cluster.Member
	info   messages.Worker
	http   string
}

// StartWorker starts a worker and returns when it has joined the cluster.
func StartWorker(ctx context.Context, cfg WorkerConfig) (_ *Worker, err error) {
	w := &Worker{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.closer.close())
		}
	}()
	log := logOr(cfg.Log)
	security, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	if err := cfg.checkListen(cfg.Listen, security, log); err != nil {
		return nil, err
	}
	info, err := cfg.describe(nameOr(cfg.Name), 1)
	if err != nil {
		return nil, err
	}
	if w.nats, err = cfg.connect(cfg.NATS, security, logContact(log)); err != nil {
		return nil, err
	}
	w.closer.add(closing(w.nats.Close))
	all, err := cluster.Open(ctx, w.nats, cluster.Options{})
	if err != nil {
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
	w.closer.add(closing(system.Close))
	streams := transfer.Security{TLS: security, Insecure: cfg.Insecure, Refused: refused}
	pool := &transfer.Pool{Security: streams, StreamOnly: cfg.PeerStream, Rate: cfg.PeerRate}
	w.closer.add(pool.Close)
	node := cfg.newNode(pool)
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "--listen %q: want HOST:PORT", cfg.Listen)
	}
	pieces, err := transfer.Listen(net.JoinHostPort(host, "0"), node, streams)
	if err != nil {
		return nil, err
	}
	w.closer.add(pieces.Close)
	_, port, err := net.SplitHostPort(pieces.Addr())
	if err != nil {
		return nil, err
	}
	// Under the name that was given, which certificates may be for.
	info.Address, info.Transfer = system.Address(), net.JoinHostPort(host, port)
	if cfg.HTTP != "" {
		pages, err := telemetry.Serve(cfg.HTTP, telemetry.Pages{Ready: w.ready, Metrics: cfg.Telemetry.Handler(), Insecure: cfg.Insecure})
		if err != nil {
			return nil, err
		}
		w.closer.add(pages.Close)
		w.http = pages.Addr()
		info.HTTP = w.http
	}
	if w.member, err = join(ctx, &w.closer, system, all, node, info, 1, cfg.Resources, log); err != nil {
		return nil, err
	}
	w.info = info
	return w, nil
}

// join starts the actors of one of n workers on this machine and takes its
// lease.
func join(ctx context.Context, end *closer, system *actors.System, all *cluster.Cluster, node *loader.Node, info messages.Worker, n int, r Resources, log *slog.Logger) (*cluster.Member, error) {
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		return nil, err
	}
	var lease atomic.Pointer[cluster.Member]
	actor, err := system.StartWorker(actors.WorkerOptions{
		Member: info, Node: r.faulty(node), Open: r.openIndex, Plans: all.Plans, Begun: all.Begun, Metrics: metrics, Log: log,
		Measure: func() map[string]int64 {
			if lease.Load() == nil {
				return nil // there is nobody to tell yet
			}
			return r.measure(n, log)
		},
		Changed: func(w messages.Worker) {
			if err := lease.Load().Update(w); err != nil {
				log.Error("lease does not say what is free", "err", err)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	end.add(actor.Stop)
	member, err := all.Join(ctx, info)
	if err != nil {
		return nil, err
	}
	lease.Store(member)
	end.add(member.Leave)
	return member, nil
}

// describe says what the worker is, as one of n on this machine.
func (r Resources) describe(name string, n int) (messages.Worker, error) {
	if err := messages.CheckToken("worker name", name); err != nil {
		return messages.Worker{}, err
	}
	now := time.Now()
	w := messages.Worker{
		Name: name, Incarnation: uint64(now.UnixNano()), Version: version.Version,
		Staging: r.Staging, Started: now, Devices: []messages.Device{},
	}
	if w.Staging <= 0 {
		w.Staging = loader.DefaultStaging
	}
	inv := device.Detect()
	w.CPU = inv.CPU.Features
	devices, err := r.Devices.Resolve(inv)
	if err != nil {
		return w, err
	}
	for _, d := range devices {
		m := messages.Device{ID: d.ID, Name: d.Name, Total: d.Total, Free: r.free(d, n), Compute: d.Compute,
			UUID: d.UUID, NUMA: d.NUMA, NVLinkPeers: d.NVLinkPeers}
		if d.ID == device.CPU {
			m.Ranks = r.CPURanks
			m.Free = cmp.Or(r.Memory, m.Free)
		}
		w.Devices = append(w.Devices, m)
	}
	return w, nil
}

// free is what arenas of one of n workers may take of a device now.
func (r Resources) free(d device.Info, n int) int64 {
	free := d.Free / int64(n)
	if d.ID == device.CPU {
		free -= loader.Headroom(r.Staging)
	}
	return max(free, 0)
}

// measure returns what is free of the devices whose budget is not fixed.
func (r Resources) measure(n int, log *slog.Logger) map[string]int64 {
	devices, err := r.Devices.Resolve(device.Detect())
	if err != nil {
		log.Warn("devices cannot be looked at: their budgets stay as they are", "err", err)
		return nil
	}
	free := map[string]int64{}
	for _, d := range devices {
		if d.ID != device.CPU || r.Memory == 0 {
			free[d.ID] = r.free(d, n)
		}
	}
	return free
}

// newNode makes a node, and opens ONNX Runtime meanwhile: the first validation
// would wait for it, and tells what is wrong with it.
func (r Resources) newNode(sender transfer.Sender) *loader.Node {
	go ort.Open("")
	return loader.NewNode(loader.NodeOptions{Parallel: r.Parallel, Staging: r.Staging, Mlock: r.Mlock, Sender: sender, Open: r.open, ExportRoots: r.WriteRoots})
}

// open opens a source that this worker may read.
func (r Resources) open(ctx context.Context, uri string, strategy recovery.Strategy) (source.Source, error) {
	s, err := source.Open(ctx, uri, source.Options{Mode: r.Read, Cache: r.Cache, Roots: r.ModelRoots, Hosts: r.AllowHosts, Retry: source.RetryFor(strategy)})
	if err != nil {
		return nil, err
	}
	if source.Remote(s.URI()) { // a local file is mapped, which nobody could observe
		tell, err := telemetry.ObserveSources()
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s = source.Observe(s, tell)
	}
	if r.Inject != nil {
		s = source.Inject(s, r.Inject)
	}
	return s, nil
}

// openIndex reads a checkpoint's headers.
func (r Resources) openIndex(ctx context.Context, uri string, strategy recovery.Strategy) (_ *checkpoint.Index, err error) {
	s, err := r.open(ctx, uri, strategy)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return checkpoint.Open(ctx, s)
}

// ready says whether the worker can do its work.
func (w *Worker) ready() error {
	if !w.nats.IsConnected() {
		return recovery.Errorf(recovery.ClusterLost, "NATS cannot be reached")
	}
	return nil
}

// Name is the worker's name.
func (w *Worker) Name() string { return w.info.Name }

// Ended is closed when the worker has lost its place to a newer one of its
// name.
func (w *Worker) Ended() <-chan struct{} { return w.member.Context().Done() }

// Err says why it ended.
func (w *Worker) Err() error { return context.Cause(w.member.Context()) }

// Line tells the addresses, for the ready line.
func (w *Worker) Line() string {
	return fmt.Sprintf("name=%s actors=%s transfer=%s http=%s", w.info.Name, w.info.Address, w.info.Transfer, w.http)
}

// Close gives the lease back, ends everything and frees what is held.
func (w *Worker) Close() error { return w.closer.close() }
