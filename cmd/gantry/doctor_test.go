package main

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/device"
)

// sound is a machine on which everything works.
func sound() diagnosis {
	return diagnosis{
		Inventory: device.Inventory{
			CPU: device.CPUInfo{Name: "A CPU", Arch: "amd64", Features: []string{"avx2"}, Cores: 64,
				NUMA:   []device.NUMANode{{Node: 0, CPUs: "0-31", Total: 64 << 30, Free: 60 << 30}, {Node: 1, CPUs: "32-63", Total: 64 << 30, Free: 50 << 30}},
				Memory: device.Memory{Total: 128 << 30, Available: 110 << 30, Free: 110 << 30}, HugePages: "madvise", ShmemHugePages: "advise",
				ShmTotal: 64 << 30, ShmFree: 64 << 30, LockedLimit: -1},
			GPUs: []device.GPU{{ID: "cuda:0", UUID: "GPU-1", Name: "NVIDIA H100", Total: 80 << 30, Free: 79 << 30, Compute: "9.0", PCI: "0000:19:00.0",
				NVLinks: 18, NVLinkPeers: []string{"cuda:1", "cuda:2"}, NUMA: 1}},
			Driver: "580.65.06", CUDA: "13.0", Visible: "0",
		},
		Kernels: "avx512", ONNXRuntime: ortDiagnosis{Library: "/lib/libonnxruntime.so.1", Version: "1.29.0", Providers: []string{"CPUExecutionProvider"}},
	}
}

// TestDoctorFinds: what is wrong with a machine, and nothing else, is found,
// with its reason and remedy.
func TestDoctorFinds(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(d *diagnosis)
		health health
		why    string
	}{
		{"cpu features", func(d *diagnosis) { d.Kernels = "portable" }, limited, "portable code"},
		{"memory", func(d *diagnosis) { d.CPU.Memory.Free = 300 << 20 }, missing, "352.00 MiB"},
		{"huge pages", func(d *diagnosis) { d.CPU.HugePages = "never" }, limited, "small pages"},
		{"huge pages", func(d *diagnosis) { d.CPU.HugePages = "" }, limited, "small pages"},
		{"shared memory", func(d *diagnosis) { d.CPU.ShmTotal, d.CPU.ShmFree = 64<<20, 64<<20 }, limited, "must fit"},
		{"shared memory", func(d *diagnosis) { d.CPU.ShmTotal, d.CPU.ShmFree = 0, 0 }, missing, "cannot attach"},
		{"shared huge pages", func(d *diagnosis) { d.CPU.ShmemHugePages = "never" }, limited, "small pages"},
		{"locked memory", func(d *diagnosis) { d.CPU.LockedLimit = 8 << 20 }, limited, "--mlock"},
		{"ONNX Runtime", func(d *diagnosis) { d.ONNXRuntime = ortDiagnosis{Why: "no library was found"} }, missing, "no library was found"},
		{"NVIDIA driver", func(d *diagnosis) { d.GPUs, d.NoGPU = nil, "NVML library not found" }, missing, "NVML library not found"},
		{"cuda:0", func(d *diagnosis) { d.GPUs[0] = device.GPU{ID: "cuda:0", NUMA: -1} }, missing, "detection"},
		{"cuda:0", func(d *diagnosis) { d.GPUs[0].Compute = "7.0" }, missing, "7.5"},
		{"cuda:0", func(d *diagnosis) { d.GPUs[0].MIG = true }, limited, "no instance yet"},
		{"cuda:0", func(d *diagnosis) {
			d.GPUs[0].MIG, d.GPUs[0].Instances = true, []device.MIGInstance{{UUID: "MIG-7"}}
		}, limited, "MIG-7"},
		{"detection", func(d *diagnosis) { d.Problems = []string{"GPU 3: NVML: memory: ERROR_GPU_IS_LOST"} }, limited, "GPU 3"},
	} {
		d := sound()
		c.spoil(&d)
		found := false
		for _, got := range d.examine() {
			switch {
			case got.Name == c.name:
				found = true
				if got.Health != c.health || !strings.Contains(got.Why, c.why) || got.Remedy == "" || got.Found == "" {
					t.Errorf("%s: %+v, want %s and %q", c.name, got, c.health, c.why)
				}
			case got.Name != "placing on GPUs" && got.Health != works:
				t.Errorf("%s is broken, and so is said of %+v", c.name, got)
			}
		}
		if !found {
			t.Errorf("nothing is said of %s", c.name)
		}
	}
}

func TestDoctorShows(t *testing.T) {
	d := sound()
	d.Checks = d.examine()
	var out strings.Builder
	if err := d.write(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"node 1: CPUs 32-63, 50.00 GiB of 64.00 GiB free",
		"NVIDIA H100, 79.00 GiB of 80.00 GiB free, compute capability 9.0, 0000:19:00.0, GPU-1, NUMA node 1, 18 NVLinks to cuda:1 cuda:2",
		"580.65.06, serves CUDA up to 13.0, 1 GPU, CUDA_VISIBLE_DEVICES=0",
		"avx2; quantization has avx512 kernels",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, out.String())
		}
	}
}

// TestDoctor runs on this machine, whatever it is.
func TestDoctor(t *testing.T) {
	d := mustJSON[diagnosis](t, "doctor")
	for _, c := range d.Checks {
		if c.Name == "" || c.Found == "" || (c.Health == works) != (c.Why == "") || (c.Health == works) != (c.Remedy == "") {
			t.Errorf("%+v", c)
		}
	}
	if len(d.Checks) < 10 || d.CPU.Cores < 1 || d.Kernels == "" {
		t.Errorf("%+v", d)
	}
	code, stdout, stderr := gantry(t, "doctor")
	if code != exit.Done || strings.Count(stdout, "\n") < 10 || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
