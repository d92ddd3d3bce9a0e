//go:build fakecuda

package gpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/device/fakecuda"
)

// gantry builds the command, once.
func gantry(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gantry")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/gantry").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// outcome is what a command left.
type outcome struct {
	code        int
	out, stderr string
	state       *fakecuda.State // of its fake
}

// run runs a command with a fake of its own and settings of the environment
// besides.
func run(t *testing.T, command []string, env ...string) outcome {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := fakecuda.Create(path); err != nil {
		t.Fatal(err)
	}
	st, err := fakecuda.Map(path)
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = slices.Concat(os.Environ(), []string{fakecuda.EnvState + "=" + path}, env)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), st}
}

// report is what the test reads of `load --json`.
type report struct {
	State string `json:"state"`
	Ranks []struct {
		Device string `json:"device"`
		Digest string `json:"digest"`
	} `json:"ranks"`
	Placed     int64 `json:"bytes_placed"`
	Staging    int64 `json:"peak_staging_bytes"`
	Validation struct {
		State string `json:"state"`
	} `json:"validation"`
}

// TestCommandLoads: `gantry load --device cuda:0`, and auto, place on the GPU
// what `--device cpu` places in host memory, over two GPUs as well, with each
// byte copied once, and leave nothing there at their end.
func TestCommandLoads(t *testing.T) {
	command := gantry(t)
	load := func(device string, arguments ...string) (report, outcome) {
		t.Helper()
		o := run(t, append([]string{command, "load", stories(t, "hf-f32"), "--json", "--once", "--quant", "q8_0", "--device", device}, arguments...))
		var r report
		if err := json.Unmarshal([]byte(o.out), &r); err != nil || o.code != 0 || r.State != "ready" || r.Validation.State != "passed" {
			t.Fatalf("--device %s: exit %d, %v\n%s%s", device, o.code, err, o.out, o.stderr)
		}
		return r, o
	}
	want, _ := load("cpu", "--tp", "2", "--dp", "2")
	two := []string{"cuda:0", "cuda:1", "cuda:0", "cuda:1"} // of each of two workers
	for device, on := range map[string][]string{"cuda:0": {"cuda:0", "cuda:0", "cuda:0", "cuda:0"}, "auto": two, "cuda": two} {
		got, o := load(device, "--tp", "2", "--dp", "2", "--workers", "2", "--validate") // which reads back what was copied
		for r := range want.Ranks {
			if got.Ranks[r].Digest != want.Ranks[r].Digest || got.Ranks[r].Device != on[r] {
				t.Errorf("--device %s: rank %d is %+v, on the CPU %+v; want it on %s", device, r, got.Ranks[r], want.Ranks[r], on[r])
			}
		}
		s := o.state
		if s.Copied[fakecuda.HostToDevice] != uint64(got.Placed) || s.Pageable[fakecuda.HostToDevice] != 0 {
			t.Errorf("--device %s: %d bytes were copied for %d placed, %d copies not from pinned memory", device, s.Copied[fakecuda.HostToDevice], got.Placed, s.Pageable[fakecuda.HostToDevice])
		}
		if s.PinnedPeak > 2*uint64(got.Staging) {
			t.Errorf("--device %s: %d bytes were pinned, each of two workers is said to have staged %d", device, s.PinnedPeak, got.Staging)
		}
		if s.DeviceBytes+s.PinnedBytes != 0 || s.DeviceAllocs != s.DeviceFrees || s.PinnedAllocs != s.PinnedFrees {
			t.Errorf("--device %s: %d bytes on the device and %d pinned are left", device, s.DeviceBytes, s.PinnedBytes)
		}
	}
}

// fromCache copies files that lie with the ONNX Runtime in use to a folder.
func fromCache(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Getenv("GANTRY_ORT_LIB")), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCommandWithoutCUDA: what is missing is said in one line, with exit code 5
// where a GPU was asked for; auto does without.
func TestCommandWithoutCUDA(t *testing.T) {
	command := gantry(t)
	fakes := strings.Split(os.Getenv("LD_LIBRARY_PATH"), ":")[0]
	bare, foreign := t.TempDir(), t.TempDir() // ONNX Runtime without its CUDA provider, and with what is none
	fromCache(t, bare, "libonnxruntime.so.1")
	fromCache(t, foreign, "libonnxruntime.so.1", "libonnxruntime_providers_shared.so")
	cc := exec.Command("gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", filepath.Join(foreign, "libonnxruntime_providers_cuda.so"), "-L"+fakes, "-l:libcudart.so.13")
	cc.Stdin = strings.NewReader("int cudaGetDevice(int*); int device(void) { int d; return cudaGetDevice(&d); }")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	// without returns a folder with all of the fake's libraries but one.
	without := func(name string) string {
		dir := t.TempDir()
		entries, err := os.ReadDir(fakes)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() == name {
				continue
			}
			if err := os.Symlink(filepath.Join(fakes, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		return "LD_LIBRARY_PATH=" + dir
	}
	for _, tt := range []struct{ name, env, want string }{
		{"no provider", "GANTRY_ORT_LIB=" + filepath.Join(bare, "libonnxruntime.so.1"), "libonnxruntime_providers_shared.so is not in " + bare + " (run `make ort-cuda`"},
		{"another provider", "GANTRY_ORT_LIB=" + filepath.Join(foreign, "libonnxruntime.so.1"), "refuses " + foreign + "/libonnxruntime_providers_cuda.so: Failed to get symbol CreateEpFactories"},
		{"no NVML", without("libnvidia-ml.so.1"), "there is no GPU: NVML library not found"},
		{"no driver library", without("libcuda.so.1"), "libcuda.so.1: cannot open shared object file: No such file or directory (it comes with the NVIDIA driver"},
		{"no cuBLAS", without("libcublas.so.13"), "libcublas.so.13: cannot open shared object file: No such file or directory (package libcublas-13-0)"},
		{"no runtime", without("libcudart.so.13"), "libcudart.so.13: cannot open shared object file: No such file or directory (package cuda-cudart-13-0)"},
		{"old driver", "FAKECUDA_DRIVER=12040", "the NVIDIA driver serves CUDA 12.4, the provider needs CUDA 13.0: install a newer driver"},
		{"no such GPU", "FAKECUDA_DEVICES=0", "the NVIDIA driver shows no GPU"},
		{"small GPU", "FAKECUDA_MEMORY=537170912", "300000 B) is free on 1 devices"}, // besides 512 MiB of headroom
	} {
		t.Run(tt.name, func(t *testing.T) {
			load := []string{command, "load", stories(t, "hf-f32"), "--once", "--json", "--device"}
			o := run(t, append(load, "cuda:0"), tt.env)
			last := strings.TrimSpace(o.stderr[strings.LastIndexByte(strings.TrimSpace(o.stderr), '\n')+1:])
			if o.code != 5 || !strings.Contains(last, tt.want) || !strings.HasPrefix(last, "gantry: ") {
				t.Errorf("exit %d, want 5, and in one line %q:\n%s", o.code, tt.want, o.stderr)
			}
			if o.state.DeviceBytes+o.state.PinnedBytes != 0 {
				t.Errorf("%d bytes on the device and %d pinned are left", o.state.DeviceBytes, o.state.PinnedBytes)
			}
			if tt.name == "small GPU" {
				return
			}
			var r report
			if o := run(t, append(load, "auto"), tt.env); o.code != 0 || json.Unmarshal([]byte(o.out), &r) != nil || r.Ranks[0].Device != "cpu" {
				t.Errorf("--device auto: exit %d, ranks %+v, want the CPU\n%s", o.code, r.Ranks, o.stderr)
			}
		})
	}
}
