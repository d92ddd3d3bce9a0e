package ort

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/recovery"
)

// Model is what a session is made of: a model, and memory for the weights that
// it does not hold.
type Model struct {
	// Proto is a ModelProto. It is not needed after the session is made.
	Proto []byte
	// Placeholder is the file that Proto says its Weights lie in.
	Placeholder string
	// Weights are initializers of the model's graph or of graphs inside it,
	// by names that no two of them share. Types and shapes must be those that
	// Proto says: ONNX Runtime does not compare them.
	Weights         []Tensor
	Inputs, Outputs []string
	// Prepack lets kernels keep packed copies of their weights. Without it no
	// weight is copied.
	Prepack bool
	Threads int // that a run uses; 0 is one per core
	// CUDA is the device that the session runs on, nil the CPU. Every node must
	// have a kernel there: one on the CPU would read the device's memory.
	CUDA *CUDADevice
}

// Session is a model ready to be run over memory that somebody else owns: the
// weights' memory must not change, and must outlive the session. Run may be
// called from several goroutines; Close comes once, after them.
type Session struct {
	life    invariants.Lifetime
	lib     *library
	run     *onnx.DynamicAdvancedSession
	handle  unsafe.Pointer // OrtSession*
	outputs []string
	weights []handle
	pin     runtime.Pinner
}

// NewSession makes a session whose weights are used where they lie. What ONNX
// Runtime does not take is of class unsupported.
func (r *Runtime) NewSession(m Model) (_ *Session, err error) {
	// ONNX Runtime wants the file that the weights are said to lie in to
	// exist, and reads nothing of it.
	dir, err := os.MkdirTemp("", "gantry-ort-")
	if err != nil {
		return nil, fmt.Errorf("ort: placeholder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, m.Placeholder), nil, 0o600); err != nil {
		return nil, fmt.Errorf("ort: placeholder: %w", err)
	}
	options, err := newOptions(dir, m)
	if err != nil {
		return nil, fmt.Errorf("ort: session options: %w", err)
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()

	s := &Session{lib: r.lib, outputs: m.Outputs}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, w := range m.Weights {
		v, err := r.lib.newWeight(w, m.CUDA, &s.pin)
		if err != nil {
			return nil, fmt.Errorf("ort: wrap weight %q: %w", w.Name, err)
		}
		s.weights = append(s.weights, v)
		if err := r.lib.addInitializer(options, w.Name, v); err != nil {
			return nil, fmt.Errorf("ort: initializer %q: %w", w.Name, err)
		}
	}
	s.run, err = onnx.NewDynamicAdvancedSessionWithONNXData(m.Proto, m.Inputs, m.Outputs, options)
	if err != nil {
		err, class := inLine(err), recovery.Unsupported
		if recovery.ClassOf(err) == recovery.OutOfCapacity {
			class = recovery.OutOfCapacity
		}
		return nil, &recovery.Error{Class: class, Op: "make an ONNX Runtime session", Err: err}
	}
	if s.handle, err = handleOf(s.run, "s", "ortSession"); err != nil {
		return nil, err
	}
	return s, nil
}

// newOptions returns the options of a session over placed weights.
func newOptions(dir string, m Model) (*onnx.SessionOptions, error) {
	o, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	disable := "1" // prepacking would copy every weight
	if m.Prepack {
		disable = "0"
	}
	set := []error{
		// Constant folding would read weights from the placeholder.
		o.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelDisableAll),
		o.AddSessionConfigEntry("session.disable_prepacking", disable),
		o.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", dir),
		o.SetIntraOpNumThreads(m.Threads),
		o.SetInterOpNumThreads(1),
		// What fails is in the error that is returned.
		o.SetLogSeverityLevel(onnx.LoggingLevelFatal),
		// What a run needs goes back to the system after it.
		o.SetCpuMemArena(false),
		o.SetMemPattern(false),
	}
	if m.CUDA != nil {
		set = append(set, onDevice(o, m.CUDA))
	}
	if err := errors.Join(set...); err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
}

func onDevice(o *onnx.SessionOptions, d *CUDADevice) error {
	h, err := handleOf(o, "o")
	if err != nil {
		return err
	}
	return errors.Join(d.serve(h), o.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1"))
}

// Run feeds the inputs, by name, and returns the outputs in the model's order,
// with memory of their own. When ctx ends the run ends too, with its cause.
func (s *Session) Run(ctx context.Context, inputs []Tensor) (outputs []Tensor, err error) {
	s.life.Use("session")
	options, err := onnx.NewRunOptions()
	if err != nil {
		return nil, fmt.Errorf("ort: run options: %w", err)
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	defer terminating(ctx, options)()
	var pin runtime.Pinner
	defer pin.Unpin()
	var names []string
	var in []handle
	defer func() { s.lib.releaseValues(in) }()
	for _, t := range inputs {
		v, err := s.lib.newValue(t, &pin)
		if err != nil {
			return nil, fmt.Errorf("ort: wrap input %q: %w", t.Name, err)
		}
		names, in = append(names, t.Name), append(in, v)
	}
	o, err := handleOf(options, "o")
	if err != nil {
		return nil, err
	}
	out, err := s.lib.run(s.handle, o, names, in, s.outputs)
	defer s.lib.releaseValues(out)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("ort: run the model: %w", err)
	}
	for i, v := range out {
		t, err := s.lib.tensor(s.outputs[i], v)
		if err != nil {
			return nil, fmt.Errorf("ort: output %q: %w", s.outputs[i], err)
		}
		outputs = append(outputs, t)
	}
	return outputs, nil
}

// terminating has a run end when ctx does, until the returned function has
// returned.
func terminating(ctx context.Context, o *onnx.RunOptions) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = o.Terminate() // a run that goes on to its end is no harm
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// Close frees the session and lets go of the memory under it.
func (s *Session) Close() error {
	s.life.Close("session")
	var err error
	if s.run != nil {
		err = s.run.Destroy()
	}
	s.lib.releaseValues(s.weights)
	s.pin.Unpin()
	return err
}
