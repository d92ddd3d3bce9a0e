package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"
)

// Inventory is what this machine has.
type Inventory struct {
	CPU CPUInfo `json:"cpu"`
	// GPUs are those that CUDA shows to this process, in its order: that of
	// the PCI bus, or that of CUDA_VISIBLE_DEVICES.
	GPUs    []GPU  `json:"gpus"`
	Driver  string `json:"driver,omitempty"`               // NVIDIA driver's version
	CUDA    string `json:"cuda,omitempty"`                 // newest CUDA that the driver serves, such as "12.4"
	Visible string `json:"cuda_visible_devices,omitempty"` // CUDA_VISIBLE_DEVICES of this process
	// NoGPU says why GPUs is empty.
	NoGPU string `json:"no_gpu,omitempty"`
	// Problems are facts that could not be read, one line each.
	Problems []string `json:"problems,omitempty"`
}

// CPUInfo is the host.
type CPUInfo struct {
	Name     string     `json:"name"`
	Arch     string     `json:"arch"`       // as Go names it: "amd64"
	Features []string   `json:"features"`   // of those that AllFeatures lists
	Cores    int        `json:"cores"`      // that this process may use
	NUMA     []NUMANode `json:"numa_nodes"` // that this process may use, at least one
	Memory   Memory     `json:"memory"`
	// HugePages is when private memory gets huge pages, ShmemHugePages when
	// shared memory does: the kernel's words, "always", "madvise", "never",
	// …; empty where the kernel has none.
	HugePages      string `json:"huge_pages"`
	ShmemHugePages string `json:"shmem_huge_pages"`
	// ShmTotal and ShmFree are the size of /dev/shm and what is free of it,
	// bytes; both 0 where there is none.
	ShmTotal int64 `json:"shm_total"`
	ShmFree  int64 `json:"shm_free"`
	// LockedLimit is how much memory this process may lock, bytes; -1 is no
	// limit, or the capability to lock more.
	LockedLimit int64 `json:"locked_memory_limit"`
}

// Detect looks at this machine. What it cannot read it leaves empty and says
// so in Problems.
func Detect() Inventory {
	inv := detect(rootFS, nvml.New(), os.LookupEnv)
	if len(inv.CPU.NUMA) > 1 {
		if err := tryBind(inv.CPU.NUMA); err != nil {
			inv.problem(fmt.Errorf("arenas cannot be bound to NUMA nodes: %w", err))
		}
	}
	return inv
}

func detect(root fs.FS, lib nvml.Interface, env func(string) (string, bool)) Inventory {
	inv := Inventory{CPU: CPUInfo{
		Name:           strings.TrimSpace(cpuid.CPU.BrandName),
		Arch:           runtime.GOARCH,
		Features:       features(),
		Cores:          runtime.NumCPU(),
		HugePages:      chosen(root, "sys/kernel/mm/transparent_hugepage/enabled"),
		ShmemHugePages: chosen(root, "sys/kernel/mm/transparent_hugepage/shmem_enabled"),
	}}
	var err error
	if inv.CPU.Memory, err = readMemory(root); err != nil {
		inv.problem(err)
	}
	if inv.CPU.NUMA, err = numaNodes(root); err != nil {
		inv.problem(err)
	}
	if inv.CPU.LockedLimit, err = lockedLimit(); err != nil {
		inv.problem(err)
	}
	if inv.CPU.ShmTotal, inv.CPU.ShmFree, err = sharedMemory(); err != nil {
		inv.problem(err)
	}
	inv.addGPUs(root, lib)
	if list, set := env("CUDA_VISIBLE_DEVICES"); set {
		inv.show(list)
	}
	return inv
}

func (inv *Inventory) problem(err error) { inv.Problems = append(inv.Problems, err.Error()) }

// cpuFeatures are the names of features and what the processor must have for
// each. avx512 is what the kernels of package quant use, and most of
// x86-64-v4.
var cpuFeatures = []struct {
	name string
	ids  []cpuid.FeatureID
}{
	{"avx", []cpuid.FeatureID{cpuid.AVX}},
	{"avx2", []cpuid.FeatureID{cpuid.AVX2}},
	{"avx512", []cpuid.FeatureID{cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL}},
	{"avx512f", []cpuid.FeatureID{cpuid.AVX512F}},
	{"fma", []cpuid.FeatureID{cpuid.FMA3}},
	{"f16c", []cpuid.FeatureID{cpuid.F16C}},
	{"amx", []cpuid.FeatureID{cpuid.AMXTILE}},
}

// AllFeatures lists the names of CPU features that are looked for.
func AllFeatures() []string {
	var out []string
	for _, f := range cpuFeatures {
		out = append(out, f.name)
	}
	return out
}

func features() []string {
	out := []string{}
	for _, f := range cpuFeatures {
		if cpuid.CPU.Supports(f.ids...) {
			out = append(out, f.name)
		}
	}
	return out
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
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return 0, os.NewSyscallError("capget", err)
	}
	if caps[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0 {
		return -1, nil
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return 0, os.NewSyscallError("getrlimit RLIMIT_MEMLOCK", err)
	}
	if l.Cur > 1<<62 { // RLIM_INFINITY, which is not the same number everywhere
		return -1, nil
	}
	return int64(l.Cur), nil
}

// sharedMemory returns the size of /dev/shm and what is free of it.
func sharedMemory() (total, free int64, err error) {
	var st unix.Statfs_t
	switch err := unix.Statfs("/dev/shm", &st); {
	case errors.Is(err, unix.ENOENT):
		return 0, 0, nil
	case err != nil:
		return 0, 0, os.NewSyscallError("statfs /dev/shm", err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}
