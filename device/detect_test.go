package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"
)

// noDriver fails to start, and panics at any other call.
func noDriver(ret nvml.Return) nvml.Interface {
	return &mock.Interface{InitFunc: func() nvml.Return { return ret }}
}

// noEnv is an environment without CUDA_VISIBLE_DEVICES.
func noEnv(string) (string, bool) { return "", false }

// TestDetect runs on the machine as it is, whatever it has: it must not die.
func TestDetect(t *testing.T) {
	inv := Detect()
	if inv.CPU.Cores < 1 || len(inv.CPU.NUMA) < 1 || inv.CPU.Arch != runtime.GOARCH {
		t.Errorf("CPU %+v", inv.CPU)
	}
	if m := inv.CPU.Memory; m.Free <= 0 || m.Free > m.Available || m.Available > m.Total {
		t.Errorf("memory %+v", m)
	}
	if inv.CPU.ShmFree > inv.CPU.ShmTotal {
		t.Errorf("%d of %d bytes of /dev/shm are free", inv.CPU.ShmFree, inv.CPU.ShmTotal)
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
		inv := detect(rootFS, noDriver(ret), noEnv)
		if len(inv.GPUs) != 0 || !strings.Contains(inv.NoGPU, want) {
			t.Errorf("Init answers %d: %d GPUs, %q; want none and %q", int(ret), len(inv.GPUs), inv.NoGPU, want)
		}
	}
}

// complete gives the mocked GPUs what the mocks lack: links over a switch, bus
// numbers, free memory, and two MIG instances to each GPU that is split.
func complete(s *server.Server, links int) {
	for i, d := range s.Devices {
		dev := d.(*server.Device)
		dev.GetNvLinkStateFunc = func(l int) (nvml.EnableState, nvml.Return) {
			if l >= links {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return nvml.FEATURE_ENABLED, nvml.SUCCESS
		}
		dev.GetP2PStatusFunc = func(_ nvml.Device, caps nvml.GpuP2PCapsIndex) (nvml.GpuP2PStatus, nvml.Return) {
			if caps != nvml.P2P_CAPS_INDEX_NVLINK {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return nvml.P2P_STATUS_OK, nvml.SUCCESS
		}
		dev.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) {
			return nvml.PciInfo{Bus: uint32(16 * (i + 1))}, nvml.SUCCESS
		}
		dev.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
			return nvml.Memory{Total: 80 << 30, Free: 70 << 30, Used: 10 << 30}, nvml.SUCCESS
		}
		dev.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
		dev.GetMigDeviceHandleByIndexFunc = func(n int) (nvml.Device, nvml.Return) {
			if n%3 != 0 || n > 3 {
				return nil, nvml.ERROR_NOT_FOUND
			}
			return &mock.Device{
				GetUUIDFunc: func() (string, nvml.Return) { return fmt.Sprintf("MIG-%d-%d", i, n), nvml.SUCCESS },
				GetNameFunc: func() (string, nvml.Return) { return dev.Config.Name + " MIG 3g.40gb", nvml.SUCCESS },
				GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) {
					return nvml.Memory{Total: 40 << 30, Free: 39 << 30}, nvml.SUCCESS
				},
			}, nvml.SUCCESS
		}
	}
}

// twoNodes is a machine with two NUMA nodes; its GPUs 1 and 4 to 7 are
// attached to the second, and where GPU 2 is attached is not known.
func twoNodes() fstest.MapFS {
	root := fstest.MapFS{
		"proc/meminfo":                                     {Data: []byte(meminfo)},
		"proc/self/status":                                 {Data: []byte("Name:\tgantry\nMems_allowed_list:\t0-1\n")},
		"sys/devices/system/node/node0/cpulist":            {Data: []byte("0-3,8-11\n")},
		"sys/devices/system/node/node0/meminfo":            {Data: []byte("Node 0 MemTotal:  600 kB\nNode 0 MemFree:  100 kB\nNode 0 Active(file):  20 kB\nNode 0 Inactive(file):  30 kB\nNode 0 SReclaimable:  5 kB\n")},
		"sys/devices/system/node/node1/cpulist":            {Data: []byte("4-7\n")},
		"sys/devices/system/node/node1/meminfo":            {Data: []byte("Node 1 MemTotal:  400 kB\nNode 1 MemFree:  300 kB\n")},
		"sys/devices/system/node/node2/cpulist":            {Data: []byte("\n")},
		"sys/devices/system/node/node2/meminfo":            {Data: []byte("Node 2 MemTotal:  9 kB\n")},
		"sys/devices/system/node/possible":                 {},
		"sys/kernel/mm/transparent_hugepage/enabled":       {Data: []byte("always [madvise] never\n")},
		"sys/kernel/mm/transparent_hugepage/shmem_enabled": {Data: []byte("always within_size advise [never] deny force\n")},
	}
	for i, node := range []string{"0", "1", "", "0", "1", "1", "1", "1"} {
		if node != "" {
			root[fmt.Sprintf("sys/bus/pci/devices/0000:%02x:00.0/numa_node", 16*(i+1))] = &fstest.MapFile{Data: []byte(node + "\n")}
		}
	}
	return root
}

func TestDetectGPUs(t *testing.T) {
	for _, tt := range []struct {
		name, gpu, compute string
		server             *server.Server
		links              int
	}{
		{"dgxa100", "A100", "8.0", dgxa100.New(), 12},
		{"dgxh100", "H100", "9.0", dgxh100.New(), 18},
		{"dgxb200", "B200", "10.0", dgxb200.New(), 18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			complete(tt.server, tt.links)
			if ret, _ := tt.server.Devices[2].SetMigMode(nvml.DEVICE_MIG_ENABLE); ret != nvml.SUCCESS {
				t.Fatal(ret)
			}
			inv := detect(twoNodes(), tt.server, noEnv)
			if len(inv.GPUs) != 8 || inv.NoGPU != "" || len(inv.Problems) != 0 || inv.Driver == "" || inv.CUDA == "" {
				t.Fatalf("%+v", inv)
			}
			g := inv.GPUs[1]
			if !strings.Contains(g.Name, tt.gpu) || !strings.HasPrefix(g.UUID, "GPU-") {
				t.Errorf("name %q, UUID %q", g.Name, g.UUID)
			}
			g.Name, g.UUID = "", ""
			want := GPU{ID: "cuda:1", Total: 80 << 30, Free: 70 << 30, Compute: tt.compute, PCI: "0000:20:00.0", NVLinks: tt.links, NUMA: 1,
				NVLinkPeers: []string{"cuda:0", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7"}}
			if diff := cmp.Diff(want, g); diff != "" {
				t.Error(diff)
			}
			if g := inv.GPUs[2]; !g.MIG || g.NUMA != -1 || g.ID != "cuda:2" || len(g.Instances) != 2 {
				t.Errorf("%+v, want MIG with two instances, no NUMA node, cuda:2", g)
			} else if m := g.Instances[1]; m.UUID != "MIG-2-3" || m.Total != 40<<30 || m.Free != 39<<30 || !strings.HasSuffix(m.Name, "MIG 3g.40gb") {
				t.Errorf("instance %+v", m)
			}
		})
	}
}

// TestDetectWithoutLinks: a driver that knows no peers, or a GPU without
// links, is asked for none.
func TestDetectWithoutLinks(t *testing.T) {
	s := dgxa100.New()
	complete(s, 0)
	for _, d := range s.Devices {
		d.(*server.Device).GetP2PStatusFunc = nil // panics
	}
	if g := detect(twoNodes(), s, noEnv).GPUs[0]; g.NVLinks != 0 || g.NVLinkPeers != nil {
		t.Errorf("%+v", g)
	}
	complete(s, 12)
	s.LookupSymbolFunc = func(symbol string) error { return errors.New("no " + symbol) }
	if g := detect(twoNodes(), s, noEnv).GPUs[0]; g.NVLinks != 12 || g.NVLinkPeers != nil || g.MIG {
		t.Errorf("%+v", g)
	}
}

func TestVisible(t *testing.T) {
	s := dgxh100.New()
	complete(s, 18)
	for i, d := range s.Devices {
		d.(*server.Device).UUID = fmt.Sprintf("GPU-%d000", i)
	}
	if ret, _ := s.Devices[2].SetMigMode(nvml.DEVICE_MIG_ENABLE); ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	for list, want := range map[string]string{
		"0":                   "GPU-0000 ",
		"3,1":                 "GPU-3000 cuda:1,GPU-1000 cuda:0",
		" GPU-7, GPU-60":      "GPU-7000 cuda:1,GPU-6000 cuda:0",
		"5,9,1":               "GPU-5000 ", // what follows an entry that is none is not shown
		"MIG-2-3":             "MIG-2-3 ",
		"":                    "",
		"-1":                  "",
		"0,0":                 "",
		"0,GPU-0000":          "",
		"nonsense":            "",
		"MIG-2":               "", // no beginnings of an instance's UUID
		"1,GPU-4000,MIG-2-0,": "GPU-1000 cuda:1,GPU-4000 cuda:0,MIG-2-0 ",
	} {
		inv := detect(twoNodes(), s, func(name string) (string, bool) { return list, name == "CUDA_VISIBLE_DEVICES" })
		var got []string
		for i, g := range inv.GPUs {
			if g.ID != cudaPrefix+strconv.Itoa(i) {
				t.Errorf("%q: GPU %d has the id %s", list, i, g.ID)
			}
			got = append(got, g.UUID+" "+strings.Join(g.NVLinkPeers, "+"))
		}
		if s := strings.Join(got, ","); s != want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q shows %s, want %s", list, s, want)
		}
		if (len(inv.GPUs) == 0) != strings.Contains(inv.NoGPU, "CUDA_VISIBLE_DEVICES") {
			t.Errorf("%q: reason %q", list, inv.NoGPU)
		}
	}
	if g := visible(detect(twoNodes(), s, noEnv).GPUs, "MIG-2-3")[0]; g.Total != 40<<30 || g.Free != 39<<30 || g.MIG || g.Compute != "9.0" {
		t.Errorf("an instance as a GPU: %+v", g)
	}
}

// TestDetectBrokenGPU: one GPU that fell off the bus is a problem, and the
// others keep their ids.
func TestDetectBrokenGPU(t *testing.T) {
	s := dgxh100.New()
	complete(s, 18)
	s.Devices[0].(*server.Device).GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
		return nvml.Memory{}, nvml.ERROR_GPU_IS_LOST
	}
	inv := detect(twoNodes(), s, noEnv)
	if len(inv.GPUs) != 8 || inv.GPUs[0].ID != "cuda:0" || inv.GPUs[0].Total != 0 || inv.GPUs[7].ID != "cuda:7" || len(inv.GPUs[7].NVLinkPeers) != 6 {
		t.Errorf("%+v", inv.GPUs)
	}
	if len(inv.Problems) != 1 || inv.Problems[0] != "GPU 0: NVML: memory: ERROR_GPU_IS_LOST" {
		t.Errorf("problems %q", inv.Problems)
	}
}

func TestNUMANodes(t *testing.T) {
	got, err := numaNodes(twoNodes())
	want := []NUMANode{{Node: 0, CPUs: "0-3,8-11", Total: 600 << 10, Free: 155 << 10}, {Node: 1, CPUs: "4-7", Total: 400 << 10, Free: 300 << 10}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := numaNodes(fstest.MapFS{}); len(got) != 1 || err != nil {
		t.Errorf("a kernel without NUMA: %+v, %v", got, err)
	}
	broken := twoNodes()
	delete(broken, "sys/devices/system/node/node1/meminfo")
	if got, err := numaNodes(broken); len(got) != 1 || err == nil {
		t.Errorf("a node that cannot be read: %+v, %v", got, err)
	}
}

func TestNumbers(t *testing.T) {
	for list, want := range map[string][]int{"0": {0}, "0-2,7": {0, 1, 2, 7}, "": nil, "x,3-1,4-x": nil, "0-99999999": nil} {
		if got := numbers(list); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", list, got, want)
		}
	}
}
