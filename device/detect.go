package device

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"runtime"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"
)

// Inventory is what this machine has.
type Inventory struct {
	CPU    CPUInfo `json:"cpu"`
	GPUs   []GPU   `json:"gpus"`             // in NVML's order, that of the PCI bus
	Driver string  `json:"driver,omitempty"` // NVIDIA driver's version
	CUDA   string  `json:"cuda,omitempty"`   // newest CUDA that the driver serves, such as "12.4"
	// NoGPU says why GPUs is empty.
	NoGPU string `json:"no_gpu,omitempty"`
	// Problems are facts that could not be read, one line each.
	Problems []string `json:"problems,omitempty"`
}

// CPUInfo is the host.
type CPUInfo struct {
	Name     string   `json:"name"`
	Arch     string   `json:"arch"`     // as Go names it: "amd64"
	Features []string `json:"features"` // of avx, avx2, avx512f, fma, f16c, amx
	Cores    int      `json:"cores"`    // that this process may use
	NUMA     int      `json:"numa_nodes"`
	Memory   Memory   `json:"memory"`
	// HugePages is when private memory gets huge pages, ShmemHugePages when
	// shared memory does: the kernel's words, "always", "madvise", "never",
	// …; empty where the kernel has none.
	HugePages      string `json:"huge_pages"`
	ShmemHugePages string `json:"shmem_huge_pages"`
	// LockedLimit is how much memory this process may lock, bytes; -1 is no
	// limit.
	LockedLimit int64 `json:"locked_memory_limit"`
}

// Detect looks at this machine. What it cannot read it leaves empty and says
// so in Problems.
func Detect() Inventory { return detect(rootFS, nvml.New()) }

func detect(root fs.FS, lib nvml.Interface) Inventory {
	inv := Inventory{CPU: CPUInfo{
		Name:           strings.TrimSpace(cpuid.CPU.BrandName),
		Arch:           runtime.GOARCH,
		Features:       features(),
		Cores:          runtime.NumCPU(),
		NUMA:           numaNodes(root),
		HugePages:      chosen(root, "sys/kernel/mm/transparent_hugepage/enabled"),
		ShmemHugePages: chosen(root, "sys/kernel/mm/transparent_hugepage/shmem_enabled"),
	}}
	var err error
	if inv.CPU.Memory, err = readMemory(root); err != nil {
		inv.problem(err)
	}
	if inv.CPU.LockedLimit, err = lockedLimit(); err != nil {
		inv.problem(err)
	}
	inv.addGPUs(root, lib)
	return inv
}

func (inv *Inventory) problem(err error) { inv.Problems = append(inv.Problems, err.Error()) }

func features() []string {
	out := []string{}
	for _, f := range []struct {
		name string
		id   cpuid.FeatureID
	}{
		{"avx", cpuid.AVX}, {"avx2", cpuid.AVX2}, {"avx512f", cpuid.AVX512F},
		{"fma", cpuid.FMA3}, {"f16c", cpuid.F16C}, {"amx", cpuid.AMXTILE},
	} {
		if cpuid.CPU.Has(f.id) {
			out = append(out, f.name)
		}
	}
	return out
}

var nodeName = regexp.MustCompile(`^node[0-9]+$`)

// numaNodes counts the nodes; a kernel without NUMA has one.
func numaNodes(root fs.FS) int {
	entries, err := fs.ReadDir(root, "sys/devices/system/node")
	if err != nil {
		return 1
	}
	n := 0
	for _, e := range entries {
		if nodeName.MatchString(e.Name()) {
			n++
		}
	}
	return max(n, 1)
}

// chosen reads a kernel setting that lists its values with the chosen one in
// brackets, such as "always [madvise] never".
func chosen(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, path.Clean(name))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	value, _, _ := strings.Cut(rest, "]")
	return value
}

func lockedLimit() (int64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return 0, os.NewSyscallError("getrlimit RLIMIT_MEMLOCK", err)
	}
	if l.Cur > 1<<62 { // RLIM_INFINITY, which is not the same number everywhere
		return -1, nil
	}
	return int64(l.Cur), nil
}
