package device

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/gantry-ml/gantry/device/cudart"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/recovery"
)

// cudaRuntime is what this process places on GPUs with: ONNX Runtime's provider
// and the CUDA runtime that it uses.
type cudaRuntime struct {
	ort  *ort.Runtime
	cuda *cudart.Runtime

	mu      sync.Mutex
	devices map[int]*cudaDevice
}

// cudaDevice is one GPU that arenas are made on.
type cudaDevice struct {
	*ort.CUDADevice
	id   string
	n    int // as CUDA numbers it
	cuda *cudart.Runtime
}

// cudaOpened is the process's one cudaRuntime, once there is one.
var cudaOpened struct {
	sync.Mutex
	runtime *cudaRuntime
}

// openCUDA returns the GPU with an id. Whatever is missing is an error of class
// out_of_capacity that says what it is and where it comes from.
func openCUDA(id string) (*cudaDevice, error) {
	n, ok := cudaIndex(id)
	if !ok {
		return nil, recovery.Errorf(recovery.Usage, "device: unknown device %q: want cpu or cuda:N", id)
	}
	d, err := func() (*cudaDevice, error) {
		r, err := openCUDARuntime()
		if err != nil {
			return nil, err
		}
		return r.device(id, n)
	}()
	if err != nil {
		return nil, &recovery.Error{Class: recovery.OutOfCapacity, Op: "use device " + id, Err: err, Hint: "see docs/gpu.md, or use --device cpu"}
	}
	return d, nil
}

func openCUDARuntime() (*cudaRuntime, error) {
	cudaOpened.Lock()
	defer cudaOpened.Unlock()
	if cudaOpened.runtime != nil {
		return cudaOpened.runtime, nil
	}
	r := &cudaRuntime{devices: map[int]*cudaDevice{}}
	// GPUs are numbered as NVML lists them, unless the user wants it otherwise.
	if os.Getenv("CUDA_DEVICE_ORDER") == "" {
		if err := os.Setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID"); err != nil {
			return nil, err
		}
	}
	var err error
	if r.ort, err = ort.Open(""); err != nil {
		return nil, err
	}
	provider, err := r.ort.FindCUDA()
	if err != nil {
		return nil, err
	}
	if r.cuda, err = openLibraries(provider); err != nil {
		return nil, err
	}
	if err := r.ort.RegisterCUDA(provider); err != nil {
		return nil, fmt.Errorf("ONNX Runtime %s refuses %s: %s", r.ort.Version(), provider, oneLine(err))
	}
	cudaOpened.runtime = r
	return r, nil
}

// openLibraries checks that what the provider is linked against is there and
// fits, which ONNX Runtime would tell in other words, and opens the CUDA
// runtime among it.
func openLibraries(provider string) (*cudart.Runtime, error) {
	needs, err := cudart.Needs(provider)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", provider, err)
	}
	var name, major string
	for _, lib := range needs {
		if v, ok := strings.CutPrefix(lib, "libcudart.so."); ok {
			name, major = lib, v
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%s is not linked against a CUDA runtime", provider)
	}
	for _, lib := range needs {
		if err := cudart.Missing(lib, major); err != nil {
			return nil, fmt.Errorf("the CUDA provider of ONNX Runtime needs CUDA %s: %w", major, err)
		}
	}
	r, err := cudart.Open(name)
	if err != nil {
		return nil, err
	}
	driver, library, err := r.Versions()
	if err != nil {
		return nil, err
	}
	if driver < library {
		return nil, fmt.Errorf("the NVIDIA driver serves CUDA %s, the provider needs CUDA %s: install a newer driver", cudaVersion(driver), cudaVersion(library))
	}
	n, err := r.Devices()
	if err == nil && n == 0 {
		err = errors.New("CUDA shows no device")
	}
	return r, err
}

// cudaVersion writes 1000 × major + 10 × minor as people do.
func cudaVersion(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// device opens the GPU that CUDA numbers n, once.
func (r *cudaRuntime) device(id string, n int) (*cudaDevice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.devices[n]; d != nil {
		return d, nil
	}
	d, err := r.ort.CUDADevice(n)
	if err != nil {
		return nil, errors.New(oneLine(err))
	}
	r.devices[n] = &cudaDevice{CUDADevice: d, id: id, n: n, cuda: r.cuda}
	return r.devices[n], nil
}

// cudaFailure finds CUDA's code in what ONNX Runtime says of a failed call.
var cudaFailure = regexp.MustCompile(`CUDA (?:failure|error) (\d+)`)

// failed returns the error of a call through ONNX Runtime, with CUDA's name for
// it where there is one.
func (d *cudaDevice) failed(call string, err error) error {
	if m := cudaFailure.FindStringSubmatch(err.Error()); m != nil {
		code, _ := strconv.Atoi(m[1])
		return d.cuda.ErrorOf(call, code)
	}
	return fmt.Errorf("%s: %s", call, oneLine(err))
}

// oneLine is the first line of an error that says something: ONNX Runtime's may
// be long, and begin with where it was found.
func oneLine(err error) string {
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return "no reason given"
}
