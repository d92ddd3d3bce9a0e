package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	onnx "github.com/yalue/onnxruntime_go"
)

// session is a model over memory that somebody else owns: that memory must
// outlive it.
type session struct {
	run     *onnx.DynamicAdvancedSession
	weights []*onnx.CustomDataTensor
	pin     runtime.Pinner
}

// newSession makes a session of g whose initializers are the memory of
// g.external, without a copy.
func (r *Runtime) newSession(g *model) (_ *session, err error) {
	// The model names a file that its initializers lie in. ONNX Runtime wants
	// it to exist, and reads none of it: a hole of the right length will do.
	dir, err := os.MkdirTemp("", "gantry-ort-")
	if err != nil {
		return nil, fmt.Errorf("ort: placeholder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := writeHole(filepath.Join(dir, placeholder), g.size()); err != nil {
		return nil, fmt.Errorf("ort: placeholder: %w", err)
	}
	options, err := newOptions(dir, g.prepack)
	if err != nil {
		return nil, fmt.Errorf("ort: session options: %w", err)
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()

	s := &session{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, e := range g.external {
		s.pin.Pin(&e.data[0]) // C keeps the pointer; this matters where e.data is Go's
		t, err := onnx.NewCustomDataTensor(onnx.NewShape(e.shape...), e.data, onnx.TensorElementDataType(elementType[e.typ]))
		if err != nil {
			return nil, fmt.Errorf("ort: wrap %s: %w", e.name, err)
		}
		s.weights = append(s.weights, t)
		if err := r.lib.addInitializer(options, e.name, t); err != nil {
			return nil, fmt.Errorf("ort: initializer %s: %w", e.name, err)
		}
	}
	s.run, err = onnx.NewDynamicAdvancedSessionWithONNXData(g.marshal(), names(g.inputs), names(g.outputs), options)
	if err != nil {
		return nil, fmt.Errorf("ort: session: %w", err)
	}
	return s, nil
}

// newOptions returns the options of a session over placed weights.
func newOptions(dir string, prepack bool) (*onnx.SessionOptions, error) {
	o, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	disable := "1" // prepacking would copy every weight
	if prepack {
		disable = "0"
	}
	set := []error{
		// Constant folding would take the placeholder's bytes for the weights.
		o.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelDisableAll),
		o.AddSessionConfigEntry("session.disable_prepacking", disable),
		o.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", dir),
		// Several loads check at once: each works in its caller's thread.
		o.SetIntraOpNumThreads(1),
		o.SetInterOpNumThreads(1),
		// What a run needs goes back to the system after it.
		o.SetCpuMemArena(false),
		o.SetMemPattern(false),
	}
	if err := errors.Join(set...); err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
}

func writeHole(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func names(vs []value) []string {
	var out []string
	for _, v := range vs {
		out = append(out, v.name)
	}
	return out
}

// Close frees the session and lets go of the memory under it.
func (s *session) Close() error {
	var err error
	if s.run != nil {
		err = s.run.Destroy()
	}
	for _, w := range s.weights {
		err = errors.Join(err, w.Destroy())
	}
	s.pin.Unpin()
	return err
}
