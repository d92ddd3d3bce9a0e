package model

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Parts is what a model is made of. The model owns the arenas from New on.
type Parts struct {
	Name   string
	Index  *checkpoint.Index
	Plan   *shard.Plan
	Arenas []device.Arena // by rank
	Report Report
	// Transforms change how Vars shows tensors. Export writes what is kept.
	Transforms []Transform
	// Open opens the checkpoint's source again, for what exports need besides
	// the tensors; nil where none is made.
	Open func(ctx context.Context) (source.Source, error)
}

// Model is a resident model. Its methods may be called from several
// goroutines; Close comes after the last use of anything it gave out, which
// Swap sees to where models are replaced.
type Model struct {
	parts   Parts
	schemes []quant.Scheme // by tensor of the plan
	views   []view         // by tensor of the plan
	byName  map[string]int // index in the plan, by the name that is shown

	mu     sync.Mutex
	closed bool
	held   int // by Hold
}

// New returns the model. It fails where the parts do not fit together; then
// the arenas stay the caller's.
func New(p Parts) (*Model, error) {
	if len(p.Arenas) != len(p.Plan.Ranks) {
		return nil, recovery.Errorf(recovery.Internal, "model: %d arenas for %d ranks", len(p.Arenas), len(p.Plan.Ranks))
	}
	for i, a := range p.Arenas {
		if want := p.Plan.Ranks[i].ArenaBytes; a.Size() != want {
			return nil, recovery.Errorf(recovery.Internal, "model: the arena of rank %d has %d bytes on %s, the plan says %d", i, a.Size(), a.Device(), want)
		}
	}
	return describe(p)
}

// describe returns the model of parts whose arenas are not looked at.
func describe(p Parts) (*Model, error) {
	m := &Model{parts: p, byName: make(map[string]int, len(p.Plan.Tensors))}
	var err error
	if m.views, err = views(p.Plan, p.Transforms); err != nil {
		return nil, err
	}
	for i := range p.Plan.Tensors {
		t := &p.Plan.Tensors[i]
		s, err := quant.Parse(t.Scheme)
		if err != nil {
			return nil, fmt.Errorf("model: tensor %q: %w", t.Name, err)
		}
		m.schemes = append(m.schemes, s)
		m.byName[m.views[i].name] = i
	}
	return m, nil
}

// Metadata is what a model says about itself.
type Metadata struct {
	Name         string
	Format       string // of the checkpoint
	Architecture checkpoint.Architecture
	About        checkpoint.About // framework, versions, quantization
	Scheme       string
	Layout       shard.Layout
	Bytes        int64 // of all arenas
	Revision     string
	Config       []byte            // config.json, as it is
	Extra        map[string]string // the checkpoint's own metadata
}

// Metadata tells about the model. Revision is the digest of its plan.
func (m *Model) Metadata() Metadata {
	ix, plan := m.parts.Index, m.parts.Plan
	md := Metadata{Name: m.parts.Name, Format: ix.Format, Architecture: ix.Architecture, About: ix.About(), Scheme: plan.Options.Scheme,
		Layout: plan.Options.Layout, Revision: plan.Digest(), Config: ix.Config, Extra: ix.Metadata}
	for _, r := range plan.Ranks {
		md.Bytes += r.ArenaBytes
	}
	return md
}

// Plan says what lies where. It must not be changed.
func (m *Model) Plan() *shard.Plan { return m.parts.Plan }

// Report says how the model was loaded.
func (m *Model) Report() Report { return m.parts.Report }

// Ranks lists the ranks that are held, by rank.
func (m *Model) Ranks() []Rank { return m.parts.Report.Ranks }

// Vars gives access to the tensors. Each call starts a new account of what
// was asked for.
func (m *Model) Vars() *Vars { return &Vars{m: m, asked: &account{}} }

// Index is what the checkpoint said about itself. It must not be changed.
func (m *Model) Index() *checkpoint.Index { return m.parts.Index }

// OpenFile opens a file of the index again, to be read besides the tensors. It
// fails with class source_changed where it is another by now.
func (m *Model) OpenFile(ctx context.Context, file int) (source.Reader, error) {
	want := m.parts.Index.Files[file]
	if m.parts.Open == nil {
		return nil, &recovery.Error{Class: recovery.NotFound, Op: "open", File: want.Name, Err: errors.New("the model does not know its source")}
	}
	src, err := m.parts.Open(ctx)
	if err != nil {
		return nil, err
	}
	r, err := src.Open(ctx, want.Name)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	f := &reopened{r, src}
	if got := r.File(); got != want {
		e := &recovery.Error{Class: recovery.SourceChanged, Op: "open", File: want.Name, Err: errors.New("it is not the file that was loaded")}
		return nil, errors.Join(e, f.Close())
	}
	return f, nil
}

// reopened is a file with the source that it is of.
type reopened struct {
	source.Reader
	src source.Source
}

func (r *reopened) Close() error { return errors.Join(r.Reader.Close(), r.src.Close()) }

// Hold keeps the memory for somebody who uses it where it lies, such as a
// session, until the returned function is called, once: Close fails until
// then. It fails with class stale once the model is closed.
func (m *Model) Hold() (release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, recovery.Errorf(recovery.Stale, "model: %s is closed", m.parts.Name)
	}
	var arenas []func()
	letGo := func() {
		for _, release := range arenas {
			release()
		}
	}
	for _, a := range m.parts.Arenas {
		release, err := a.Hold()
		if err != nil {
			letGo()
			return nil, err
		}
		arenas = append(arenas, release)
	}
	m.held++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.held--
		letGo()
	}, nil
}

// Close frees the memory. Nothing that the model gave out may be used any
// more; while somebody holds the model it fails and frees nothing. Closing it
// again does nothing.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	if m.held > 0 {
		return recovery.Errorf(recovery.Usage, "model: %s is in use by %d sessions: close them first", m.parts.Name, m.held)
	}
	m.closed = true
	var errs []error
	for _, a := range m.parts.Arenas {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// join writes rows of a tensor's planes to dst, from wherever they lie.
func (m *Model) join(tensor int, rows shard.Span, dst [][]byte) error {
	return m.parts.Plan.JoinRows(tensor, rows, dst, func(rank int, b []byte, off int64) error {
		return m.parts.Arenas[rank].CopyOut(b, off)
	})
}
