package loader

import (
	"context"
	"errors"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Loader loads models in this process. It runs one load at a time; several
// Loaders may run side by side.
type Loader struct {
	opts options

	busy     sync.Mutex // held by Load
	mu       sync.Mutex
	reporter *reporter // of the latest load
}

// New returns a Loader. Wrong options are reported by Load.
func New(opts ...Option) *Loader {
	l := &Loader{reporter: newReporter("", nil)}
	for _, o := range opts {
		o(&l.opts)
	}
	return l
}

// jobID names the one job of a node that a Loader makes for each load.
const jobID = "local"

// Load opens the checkpoint at a path or URI, plans it, and places it in
// memory of this process. Nothing is read before it is known to fit. When ctx
// ends the load ends, with class cancelled or timeout and everything freed.
//
// Other errors say file, tensor and bytes where they are known:
// invalid_checkpoint, unsupported, not_found, not_allowed, out_of_capacity,
// usage, source_changed, and what the recovery strategy gave up on.
func (l *Loader) Load(ctx context.Context, uri string) (*model.Model, error) {
	if err := l.opts.validated(); err != nil {
		return nil, err
	}
	if !l.busy.TryLock() {
		return nil, recovery.Errorf(recovery.Usage, "load: this Loader is loading already: make another one")
	}
	defer l.busy.Unlock()
	name := l.opts.name
	if name == "" {
		name = baseName(uri)
	}
	r := newReporter(name, l.opts.progress)
	defer r.stop()
	l.mu.Lock()
	l.reporter = r
	l.mu.Unlock()

	started := time.Now()
	ix, plan, err := l.plan(ctx, uri)
	if err != nil {
		return nil, err
	}
	return l.place(ctx, uri, name, started, ix, plan, r)
}

// Plan says what Load would do, and reads headers only.
func (l *Loader) Plan(ctx context.Context, uri string) (*shard.Plan, error) {
	if err := l.opts.validated(); err != nil {
		return nil, err
	}
	_, plan, err := l.plan(ctx, uri)
	return plan, err
}

// Progress tells how far the latest load is, at any time.
func (l *Loader) Progress() progress.Update {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reporter.now()
}

// plan reads the checkpoint's headers and plans the load.
func (l *Loader) plan(ctx context.Context, uri string) (_ *checkpoint.Index, _ *shard.Plan, err error) {
	if !l.opts.require.Empty() {
		if _, err := l.opts.device.Meeting(device.Detect(), l.opts.require); err != nil {
			return nil, nil, err
		}
	}
	src, err := l.opts.source(ctx, uri, l.opts.strategy)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	ix, err := checkpoint.Open(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	scheme, err := l.opts.scheme()
	if err != nil {
		return nil, nil, err
	}
	plan, err := shard.Build(ix, shard.Options{Layout: l.opts.layout, Scheme: scheme, Overrides: l.opts.quant.Overrides,
		Rules: l.opts.rules, PadVocab: l.opts.padVocab, ChunkBytes: l.opts.chunkBytes, KeepOriginal: l.opts.keep || l.opts.quant.KeepOriginal})
	if err != nil {
		return nil, nil, err
	}
	return ix, plan, model.CheckTransforms(plan, l.opts.transform)
}

// place carries the plan out.
func (l *Loader) place(ctx context.Context, uri, name string, started time.Time, ix *checkpoint.Index, plan *shard.Plan, r *reporter) (m *model.Model, err error) {
	needs, err := l.opts.require.And(ix.Require)
	if err != nil {
		return nil, err
	}
	devices, err := l.opts.device.Meeting(device.Detect(), needs)
	if err != nil {
		return nil, err
	}
	node := NewNode(NodeOptions{Staging: l.opts.staging, Mlock: l.opts.mlock, Open: l.opts.source})
	spec := JobSpec{ID: jobID, Epoch: 1, URI: uri, Plan: plan, LimitRate: l.opts.limitRate, Strategy: l.opts.strategy, Validate: l.opts.validate, InPlace: l.opts.quant.InPlace}
	if err := node.Open(ctx, spec); err != nil {
		return nil, err
	}
	defer func() {
		closing := node.Close(jobID)
		if closing != nil && m != nil {
			closing = errors.Join(closing, m.Close())
			m = nil
		}
		err = errors.Join(err, closing)
	}()

	self := job.WorkerUp{Worker: job.Worker{Name: jobID, Incarnation: 1},
		Window: window(runtime.GOMAXPROCS(0), uri, plan.Options.ChunkBytes)}
	for _, d := range devices {
		room := job.Room{Device: d.ID, Bytes: d.Free, NUMA: d.NUMA, Peers: d.NVLinkPeers}
		if d.ID == device.CPU {
			room.Bytes -= Headroom(l.opts.staging)
		}
		self.Rooms = append(self.Rooms, room)
	}
	d := newDriver(node, spec, l.opts.pins, r)
	reports, err := d.run(ctx, self)
	if err != nil {
		return nil, err
	}
	rep := d.report(started, reports)
	rep.URI = uri
	return handOver(node, d.job.Ranks(), model.Parts{Name: name, Index: ix, Plan: plan, Report: rep, Transforms: l.opts.transform,
		Open: func(ctx context.Context) (source.Source, error) { return l.opts.source(ctx, uri, l.opts.strategy) }})
}

// handOver takes the arenas from the node and makes them a model.
func handOver(node *Node, ranks []job.RankStatus, p model.Parts) (*model.Model, error) {
	free := func(err error) error {
		for _, a := range p.Arenas {
			err = errors.Join(err, a.Close())
		}
		return err
	}
	for _, r := range ranks {
		a, err := node.Take(jobID, r.Hold)
		if err != nil {
			return nil, free(err)
		}
		p.Arenas = append(p.Arenas, a)
	}
	m, err := model.New(p)
	if err != nil {
		return nil, free(err)
	}
	return m, nil
}

// baseName names a model by its folder, or by its file without the extension.
func baseName(uri string) string {
	base := strings.TrimSuffix(path.Base(strings.TrimRight(uri, "/")), ".index.json")
	for _, suffix := range []string{".safetensors", ".gguf", ".onnx"} {
		if name, ok := strings.CutSuffix(base, suffix); ok {
			return name
		}
	}
	return base
}
