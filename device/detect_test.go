package device

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
)

// noDriver fails to start, and panics at any other call.
func noDriver(ret nvml.Return) nvml.Interface {
	return &mock.Interface{InitFunc: func() nvml.Return { return ret }}
}

// TestDetect runs on the machine as it is, whatever it has: it must not die.
func TestDetect(t *testing.T) {
	inv := Detect()
	if inv.CPU.Cores < 1 || inv.CPU.NUMA < 1 || inv.CPU.Arch != runtime.GOARCH {
		t.Errorf("CPU %+v", inv.CPU)
	}
	if m := inv.CPU.Memory; m.Free <= 0 || m.Free > m.Available || m.Available > m.Total {
		t.Errorf("memory %+v", m)
	}
	if (len(inv.GPUs) == 0) != (inv.NoGPU != "") {
		t.Errorf("%d GPUs, reason for none: %q", len(inv.GPUs), inv.NoGPU)
	}
	if _, err := json.Marshal(inv); err != nil {
		t.Error(err)
	}
}

func TestDetectWithoutDriver(t *testing.T) {
	for ret, want := range map[nvml.Return]string{
		nvml.ERROR_LIBRARY_NOT_FOUND: "NVML library not found",
		nvml.ERROR_DRIVER_NOT_LOADED: "driver is not loaded",
		nvml.ERROR_UNKNOWN:           "code 999",
	} {
		inv := detect(rootFS, noDriver(ret))
		if len(inv.GPUs) != 0 || !strings.Contains(inv.NoGPU, want) {
			t.Errorf("Init answers %d: %d GPUs, %q; want none and %q", int(ret), len(inv.GPUs), inv.NoGPU, want)
		}
	}
}

// withLinks gives the mocked GPUs what the mocks lack: links, bus numbers,
// free memory.
func withLinks(s *server.Server, links int) {
	for i, d := range s.Devices {
		dev := d.(*server.Device)
		dev.GetNvLinkStateFunc = func(l int) (nvml.EnableState, nvml.Return) {
			if l >= links {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return nvml.FEATURE_ENABLED, nvml.SUCCESS
		}
		dev.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) {
			return nvml.PciInfo{Bus: uint32(16 * (i + 1))}, nvml.SUCCESS
		}
		dev.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
			return nvml.Memory{Total: 80 << 30, Free: 70 << 30, Used: 10 << 30}, nvml.SUCCESS
		}
	}
}

func TestDetectGPUs(t *testing.T) {
	root := fstest.MapFS{
		"proc/meminfo": {Data: []byte(meminfo)},
		"sys/bus/pci/devices/0000:20:00.0/numa_node":       {Data: []byte("1\n")},
		"sys/devices/system/node/node0/cpulist":            {},
		"sys/devices/system/node/node1/cpulist":            {},
		"sys/devices/system/node/possible":                 {},
		"sys/kernel/mm/transparent_hugepage/enabled":       {Data: []byte("always [madvise] never\n")},
		"sys/kernel/mm/transparent_hugepage/shmem_enabled": {Data: []byte("always within_size advise [never] deny force\n")},
	}
	for _, tt := range []struct {
		name, gpu, compute string
		server             *server.Server
		links              int
	}{
		{"dgxa100", "A100", "8.0", dgxa100.New(), 12},
		{"dgxh100", "H100", "9.0", dgxh100.New(), 18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withLinks(tt.server, tt.links)
			if ret, _ := tt.server.Devices[2].SetMigMode(nvml.DEVICE_MIG_ENABLE); ret != nvml.SUCCESS {
				t.Fatal(ret)
			}
			inv := detect(root, tt.server)
			if len(inv.GPUs) != 8 || inv.NoGPU != "" || len(inv.Problems) != 0 || inv.Driver == "" || inv.CUDA == "" {
				t.Fatalf("%+v", inv)
			}
			if inv.CPU.NUMA != 2 || inv.CPU.HugePages != "madvise" || inv.CPU.ShmemHugePages != "never" {
				t.Errorf("CPU %+v", inv.CPU)
			}
			g := inv.GPUs[1]
			if !strings.Contains(g.Name, tt.gpu) || !strings.HasPrefix(g.UUID, "GPU-") {
				t.Errorf("name %q, UUID %q", g.Name, g.UUID)
			}
			g.Name, g.UUID = "", ""
			want := GPU{ID: "cuda:1", Total: 80 << 30, Free: 70 << 30, Compute: tt.compute, PCI: "0000:20:00.0", NVLinks: tt.links, NUMA: 1}
			if g != want {
				t.Errorf("%+v, want %+v", g, want)
			}
			if g := inv.GPUs[2]; !g.MIG || g.NUMA != -1 || g.ID != "cuda:2" {
				t.Errorf("%+v, want MIG, no NUMA node, cuda:2", g)
			}
		})
	}
}

// TestDetectBrokenGPU: one GPU that fell off the bus is a problem, and the
// others keep their ids.
func TestDetectBrokenGPU(t *testing.T) {
	s := dgxh100.New()
	withLinks(s, 0)
	s.Devices[0].(*server.Device).GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
		return nvml.Memory{}, nvml.ERROR_GPU_IS_LOST
	}
	inv := detect(fstest.MapFS{"proc/meminfo": {Data: []byte(meminfo)}}, s)
	if len(inv.GPUs) != 8 || inv.GPUs[0].Total != 0 || inv.GPUs[7].ID != "cuda:7" {
		t.Errorf("%+v", inv.GPUs)
	}
	if len(inv.Problems) != 1 || inv.Problems[0] != "GPU 0: NVML: memory: code 15" {
		t.Errorf("problems %q", inv.Problems)
	}
}
