package session

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Session is an ONNX model that can be run. Its methods may be called from
// several goroutines; Close comes once, after them and before the model's.
type Session struct {
	life    invariants.Lifetime
	graph   *onnx.Graph
	run     *ort.Session
	release func()
}

// ReadGraph reads how the ONNX model that src names is run, without its
// weights. Another format is of class unsupported.
func ReadGraph(ctx context.Context, src source.Source) (g *onnx.Graph, err error) {
	ix, err := checkpoint.Open(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := isONNX(ix); err != nil {
		return nil, err
	}
	r, err := src.Open(ctx, ix.Files[0].Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return onnx.ReadGraph(ctx, r)
}

func isONNX(ix *checkpoint.Index) error {
	if ix.Format == checkpoint.FormatONNX {
		return nil
	}
	return &recovery.Error{Class: recovery.Unsupported, Op: "run", Err: errors.New("a " + ix.Format + " checkpoint has weights, and no graph to run"),
		Hint: "export the model to ONNX"}
}

// Check reports, with class usage, what keeps a model that is loaded by a plan
// from being run: ranks that hold parts of it, or tensors that become something
// else than the graph takes.
func Check(p *shard.Plan) error {
	if n := len(p.Ranks); n != 1 {
		return recovery.Errorf(recovery.Usage, "run: the model is cut over %d ranks: only one that is whole on one rank can be run", n)
	}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		if planes := t.Layout.Planes; planes[0].DType != t.DType || t.Placed() != t.Bytes {
			return &recovery.Error{Class: recovery.Usage, Op: "run", Tensor: t.Name, Err: fmt.Errorf("the graph takes it as %s, and would get %s", t.DType, t.Scheme),
				Hint: "run the model as it is stored, or export a quantized one to ONNX"}
		}
	}
	return nil
}

// Open makes a session over a model's memory, which it holds until it is
// closed. Weights are not copied, but those that ONNX Runtime must find in the
// graph (onnx.Weight.Embedded), and MatMulNBits', which its kernels pack.
//
// Errors: usage, as Check says; unsupported for other formats, and for graphs
// that ONNX Runtime does not take, on a GPU also those with a node that has no
// kernel there; source_changed; not_found without the library.
func Open(ctx context.Context, m *model.Model) (_ *Session, err error) {
	if err := isONNX(m.Index()); err != nil {
		return nil, err
	}
	if err := Check(m.Plan()); err != nil {
		return nil, err
	}
	lib, err := ort.Open("")
	if err != nil {
		return nil, err
	}
	release, err := m.Hold()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	r, err := m.OpenFile(ctx, 0)
	if err != nil {
		return nil, err
	}
	g, parts, err := assemble(ctx, m, r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	run, err := lib.NewSession(parts)
	if err != nil {
		return nil, err
	}
	return &Session{graph: g, run: run, release: release}, nil
}

// assemble puts together what a session is made of: the graph from r, and the
// weights from the model's memory.
func assemble(ctx context.Context, m *model.Model, r source.Reader) (g *onnx.Graph, parts ort.Model, err error) {
	if g, err = onnx.ReadGraph(ctx, r); err != nil {
		return nil, parts, err
	}
	vars := m.Vars()
	data := func(w *onnx.Weight) ([]byte, error) {
		t, err := vars.Tensor(w.Name)
		if err != nil {
			return nil, err
		}
		return t.Bytes()
	}
	parts.Placeholder, parts.Prepack = onnx.Placeholder, g.NBits
	for i := range g.Weights {
		w := &g.Weights[i]
		if w.Embedded = w.Embedded || !ort.Holds(w.DType); w.Embedded {
			continue
		}
		t, err := vars.Tensor(w.Name)
		if err != nil {
			return nil, parts, err
		}
		x := ort.Tensor{Name: w.GraphName(), Type: w.DType, Shape: w.Shape}
		if parts.CUDA, err = place(&x, t); err != nil {
			return nil, parts, err
		}
		parts.Weights = append(parts.Weights, x)
	}
	if parts.Proto, err = g.Strip(ctx, r, data); err != nil {
		return nil, parts, err
	}
	for _, v := range g.Feeds() {
		parts.Inputs = append(parts.Inputs, v.Name)
	}
	for _, v := range g.Outputs {
		parts.Outputs = append(parts.Outputs, v.Name)
	}
	return g, parts, nil
}

// place says where a weight lies: in memory of this process, or of the GPU that
// is returned.
func place(x *ort.Tensor, t *model.Tensor) (on *ort.CUDADevice, err error) {
	a, off, ok := t.Place()
	if !ok {
		return nil, recovery.Errorf(recovery.Usage, "run: %s is not whole, as it was stored", t.Name())
	}
	if on, base, ok := device.CUDAMemory(a); ok {
		x.At = unsafe.Add(base, off)
		return on, nil
	}
	x.Data, err = t.Bytes() // a view
	return nil, err
}

// Graph tells what goes in and comes out. It must not be changed.
func (s *Session) Graph() *onnx.Graph { return s.graph }

// Run feeds inputs, by name, and returns all outputs, in the graph's order.
// When ctx ends the run ends, with its cause. Errors: usage where the inputs
// are not those of the graph; and what ONNX Runtime says about a run.
func (s *Session) Run(ctx context.Context, inputs []ort.Tensor) ([]ort.Tensor, error) {
	s.life.Use("session")
	if err := CheckInputs(s.graph, inputs); err != nil {
		return nil, err
	}
	return s.run.Run(ctx, inputs)
}

// Close frees the session and lets go of the model.
func (s *Session) Close() error {
	s.life.Close("session")
	err := s.run.Close()
	s.release()
	return err
}
