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
	ID      string `json:"id"`   // "cuda:0"
	UUID    string `json:"uuid"` // that of the instance where CUDA_VISIBLE_DEVICES names one
	Name    string `json:"name"`
	Total   int64  `json:"total"`              // memory, bytes
	Free    int64  `json:"free"`               // memory, bytes
	Compute string `json:"compute_capability"` // "8.0"
	PCI     string `json:"pci"`                // bus id as sysfs writes it: "0000:07:00.0"
	// MIG says that the GPU is split: CUDA shows its instances in its place.
	MIG       bool          `json:"mig"`
	Instances []MIGInstance `json:"mig_instances,omitempty"`
	NVLinks   int           `json:"nvlinks"` // links that are up
	// NVLinkPeers are the GPUs whose memory it reaches by NVLink, directly or
	// through a switch.
	NVLinkPeers []string `json:"nvlink_peers,omitempty"`
	NUMA        int      `json:"numa_node"` // -1 where the kernel does not know
}

// MIGInstance is a part of a GPU that CUDA shows as a device of its own, to
// processes whose CUDA_VISIBLE_DEVICES names it.
type MIGInstance struct {
	UUID  string `json:"uuid"` // "MIG-…"
	Name  string `json:"name"`
	Total int64  `json:"total"` // memory, bytes
	Free  int64  `json:"free"`  // memory, bytes
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
	devices := make([]nvml.Device, n) // nil where one cannot be read
	for i := range n {
		d, g, err := inv.readGPU(root, lib, i)
		if err != nil {
			// The id stays with the index: later GPUs keep theirs.
			inv.problem(fmt.Errorf("GPU %d: %w", i, err))
			d, g = nil, GPU{NUMA: -1}
		}
		g.ID = cudaPrefix + strconv.Itoa(i)
		devices[i] = d
		inv.GPUs = append(inv.GPUs, g)
	}
	if has(lib, "nvmlDeviceGetP2PStatus") {
		inv.addPeers(devices)
	}
	return nil
}

// has reports whether the driver has a function. Calling one that it lacks
// ends the process, so what came after the oldest driver is asked for first.
func has(lib nvml.Interface, symbol string) bool {
	return lib.Extensions().LookupSymbol(symbol) == nil
}

// readGPU reads what placing needs, and fails without it; MIG and NVLink are
// told where the driver knows them.
func (inv *Inventory) readGPU(root fs.FS, lib nvml.Interface, i int) (nvml.Device, GPU, error) {
	var g GPU
	d, ret := lib.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, g, nvmlError("open", ret)
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
		return nil, g, first
	}
	g.NUMA = numaOf(root, g.PCI)
	if has(lib, "nvmlDeviceGetMigMode") { // R450 and newer
		mode, _, ret := d.GetMigMode()
		if g.MIG = ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE; g.MIG {
			var err error
			if g.Instances, err = readInstances(d); err != nil {
				inv.problem(fmt.Errorf("GPU %d: %w", i, err))
			}
		}
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
	return d, g, nil
}

// readInstances lists the MIG instances that hold a compute instance.
func readInstances(d nvml.Device) ([]MIGInstance, error) {
	n, ret := d.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil, nvmlError("count MIG instances", ret)
	}
	var out []MIGInstance
	for i := range n {
		m, ret := d.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue // the places are not all taken
		}
		if ret != nvml.SUCCESS {
			return nil, nvmlError("open a MIG instance", ret)
		}
		uuid, ret := m.GetUUID()
		if ret != nvml.SUCCESS {
			return nil, nvmlError("UUID of a MIG instance", ret)
		}
		name, ret := m.GetName()
		if ret != nvml.SUCCESS {
			return nil, nvmlError("name of a MIG instance", ret)
		}
		memory, ret := m.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			return nil, nvmlError("memory of a MIG instance", ret)
		}
		out = append(out, MIGInstance{UUID: uuid, Name: name, Total: int64(memory.Total), Free: int64(memory.Free)})
	}
	return out, nil
}

// addPeers notes which GPUs reach each other by NVLink. A pair that the driver
// does not tell of is none.
func (inv *Inventory) addPeers(devices []nvml.Device) {
	for i, a := range devices {
		g := &inv.GPUs[i]
		if a == nil || g.NVLinks == 0 {
			continue
		}
		for k, b := range devices {
			if b == nil || k == i {
				continue
			}
			status, ret := a.GetP2PStatus(b, nvml.P2P_CAPS_INDEX_NVLINK)
			if ret == nvml.SUCCESS && status == nvml.P2P_STATUS_OK {
				g.NVLinkPeers = append(g.NVLinkPeers, inv.GPUs[k].ID)
			}
		}
	}
}

func nvmlError(what string, ret nvml.Return) error {
	return fmt.Errorf("NVML: %s: %w", what, ret)
}
