package device

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// GPU is one NVIDIA GPU as NVML tells of it.
type GPU struct {
	ID      string `json:"id"` // "cuda:0"
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
	Total   int64  `json:"total"`              // memory, bytes
	Free    int64  `json:"free"`               // memory, bytes
	Compute string `json:"compute_capability"` // "8.0"
	PCI     string `json:"pci"`                // bus id as sysfs writes it: "0000:07:00.0"
	MIG     bool   `json:"mig"`                // split into instances
	NVLinks int    `json:"nvlinks"`            // links that are up
	NUMA    int    `json:"numa_node"`          // -1 where the kernel does not know
}

// addGPUs asks NVML. Without a driver the inventory has no GPU and a reason.
// After a failed Init no call of NVML may follow: go-nvml's functions resolve
// at their first call, and one that does not ends the process.
func (inv *Inventory) addGPUs(root fs.FS, lib nvml.Interface) {
	inv.GPUs = []GPU{}
	if ret := lib.Init(); ret != nvml.SUCCESS {
		inv.NoGPU = initFailed(ret)
		return
	}
	defer func() {
		if ret := lib.Shutdown(); ret != nvml.SUCCESS {
			inv.problem(nvmlError("shut down", ret))
		}
	}()
	if err := inv.readGPUs(root, lib); err != nil {
		inv.problem(err)
	}
	if len(inv.GPUs) == 0 {
		inv.NoGPU = "the NVIDIA driver shows no GPU"
		if len(inv.Problems) > 0 {
			inv.NoGPU += ": " + strings.Join(inv.Problems, "; ")
		}
	}
}

// initFailed says why NVML cannot be used, and what to do.
func initFailed(ret nvml.Return) string {
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "NVML library not found (libnvidia-ml.so.1 comes with the NVIDIA driver; a container needs the NVIDIA container toolkit)"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA driver is not loaded (modprobe nvidia)"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "the NVIDIA driver and its library are of different versions (reboot after a driver update)"
	case nvml.ERROR_NO_PERMISSION:
		return "no permission to use the NVIDIA driver (look at /dev/nvidia*)"
	}
	return fmt.Sprintf("NVML does not start, code %d", int(ret))
}

func (inv *Inventory) readGPUs(root fs.FS, lib nvml.Interface) error {
	var ret nvml.Return
	if inv.Driver, ret = lib.SystemGetDriverVersion(); ret != nvml.SUCCESS {
		inv.problem(nvmlError("driver version", ret))
	}
	// 1000 × major + 10 × minor.
	if v, ret := lib.SystemGetCudaDriverVersion(); ret != nvml.SUCCESS {
		inv.problem(nvmlError("CUDA version", ret))
	} else {
		inv.CUDA = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nvmlError("count GPUs", ret)
	}
	for i := range n {
		g, err := readGPU(root, lib, i)
		if err != nil {
			// The id stays with the index: later GPUs keep theirs.
			inv.problem(fmt.Errorf("GPU %d: %w", i, err))
			g = GPU{ID: cudaPrefix + strconv.Itoa(i), NUMA: -1}
		}
		inv.GPUs = append(inv.GPUs, g)
	}
	return nil
}

// readGPU reads what placing needs, and fails without it; MIG and NVLink are
// told where the driver knows them.
func readGPU(root fs.FS, lib nvml.Interface, i int) (GPU, error) {
	g := GPU{ID: cudaPrefix + strconv.Itoa(i)}
	d, ret := lib.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return g, nvmlError("open", ret)
	}
	var first error
	note := func(what string, ret nvml.Return) {
		if ret != nvml.SUCCESS && first == nil {
			first = nvmlError(what, ret)
		}
	}
	g.UUID, ret = d.GetUUID()
	note("UUID", ret)
	g.Name, ret = d.GetName()
	note("name", ret)
	memory, ret := d.GetMemoryInfo()
	note("memory", ret)
	g.Total, g.Free = int64(memory.Total), int64(memory.Free)
	major, minor, ret := d.GetCudaComputeCapability()
	note("compute capability", ret)
	g.Compute = fmt.Sprintf("%d.%d", major, minor)
	pci, ret := d.GetPciInfo()
	note("PCI", ret)
	g.PCI = fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device)
	if first != nil {
		return g, first
	}
	g.NUMA = numaOf(root, g.PCI)
	// A driver before R450 has no MIG, and calling what it lacks would end
	// the process.
	if lib.Extensions().LookupSymbol("nvmlDeviceGetMigMode") == nil {
		mode, _, ret := d.GetMigMode()
		g.MIG = ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE
	}
	for link := range nvml.NVLINK_MAX_LINKS {
		state, ret := d.GetNvLinkState(link)
		if ret != nvml.SUCCESS {
			break // past the last link, or a GPU without any
		}
		if state == nvml.FEATURE_ENABLED {
			g.NVLinks++
		}
	}
	return g, nil
}

// numaOf returns the NUMA node that a PCI device is attached to, -1 where the
// kernel does not know.
func numaOf(root fs.FS, pci string) int {
	b, err := fs.ReadFile(root, "sys/bus/pci/devices/"+pci+"/numa_node")
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return n
}

func nvmlError(what string, ret nvml.Return) error {
	return fmt.Errorf("NVML: %s: code %d", what, int(ret))
}
