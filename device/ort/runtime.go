package ort

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/gantry-ml/gantry/recovery"
)

// apiVersion is the version of the C API that onnxruntime_go 1.27.0 asks for.
// ONNX Runtime 1.N serves the versions up to N.
const apiVersion = 24

// Runtime is the process's ONNX Runtime. Its methods may be called from
// several goroutines.
type Runtime struct {
	lib       *library
	path      string
	providers []string
}

// opened is the process's one Runtime, once there is one.
var opened struct {
	sync.Mutex
	runtime *Runtime
}

// Open opens the library at path, "" for what Find finds. The first success
// is the process's Runtime and stays open; Open of the same file returns it
// again, Open of another is an error. A library that is missing is of class
// not_found; one that is too old, or something else, of class unsupported.
func Open(path string) (*Runtime, error) {
	if path == "" {
		var err error
		if path, err = Find(); err != nil {
			return nil, err
		}
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, missing(err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, missing(err)
	}
	opened.Lock()
	defer opened.Unlock()
	if r := opened.runtime; r != nil {
		if r.path != real {
			return nil, fmt.Errorf("ort: %s is open in this process already: %s cannot be opened as well", r.path, real)
		}
		return r, nil
	}
	r, err := open(real)
	if err != nil {
		return nil, err
	}
	opened.runtime = r
	return r, nil
}

func open(path string) (*Runtime, error) {
	l, err := load(path)
	if err != nil {
		return nil, unusable(path, err)
	}
	r, err := start(l, path)
	if err != nil {
		l.unload()
		return nil, unusable(path, err)
	}
	return r, nil
}

// start checks the version before anything else is called: an older library
// prints to stderr when it is asked for an API that it lacks.
func start(l *library, path string) (*Runtime, error) {
	if err := checkVersion(l.version); err != nil {
		return nil, err
	}
	if err := l.bind(apiVersion); err != nil {
		return nil, err
	}
	r := &Runtime{lib: l, path: path}
	var err error
	if r.providers, err = l.providers(); err != nil {
		return nil, fmt.Errorf("list providers: %w", err)
	}
	onnx.SetSharedLibraryPath(path)
	// What fails is returned, and is not to be told a second time on stderr.
	if err := onnx.InitializeEnvironment(onnx.WithLogLevelFatal()); err != nil {
		return nil, fmt.Errorf("start it: %w", err)
	}
	return r, nil
}

// checkVersion takes versions such as "1.29.0".
func checkVersion(v string) error {
	major, rest, _ := strings.Cut(v, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	if err != nil || major != "1" {
		return fmt.Errorf("it says that its version is %q, which is none of ONNX Runtime 1", v)
	}
	if n < apiVersion {
		return fmt.Errorf("its version is %s, too old: 1.%d or newer is wanted", v, apiVersion)
	}
	return nil
}

func unusable(path string, why error) error {
	return &recovery.Error{Class: recovery.Unsupported, Op: "open ONNX Runtime", File: path, Err: why, Hint: howToGet}
}

// Path returns the file that the library was opened from, links resolved.
func (r *Runtime) Path() string { return r.path }

// Version returns the library's version, such as "1.29.0".
func (r *Runtime) Version() string { return r.lib.version }

// Providers returns the execution providers that the library was built with,
// best first, such as "CPUExecutionProvider".
func (r *Runtime) Providers() []string { return slices.Clone(r.providers) }
