package main

import (
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/loader"
)

// examine looks at each thing that was found.
func (d diagnosis) examine() []check {
	all := []check{d.cpu(), d.features(), d.memory(), d.numa(), d.hugePages(), d.sharedMemory(), d.sharedHugePages(), d.lockedMemory(), d.onnxRuntime(), d.driver()}
	for _, g := range d.GPUs {
		all = append(all, d.gpu(g))
	}
	if len(d.GPUs) > 0 {
		all = append(all, d.placing())
	}
	for _, p := range d.Problems {
		all = append(all, check{"detection", limited, "a fact could not be read", p, "look at the permissions of /proc, /sys and /dev/nvidia*"})
	}
	return all
}

func (d diagnosis) cpu() check {
	return check{Name: "cpu", Health: works, Found: fmt.Sprintf("%s, %s, %s", orElse(d.CPU.Name, "unknown model"), d.CPU.Arch, plural(d.CPU.Cores, "core"))}
}

func (d diagnosis) features() check {
	c := check{Name: "cpu features", Health: works, Found: fmt.Sprintf("%s; quantization has %s kernels", orElse(strings.Join(d.CPU.Features, " "), "none"), d.Kernels)}
	if d.Kernels == "portable" {
		c.Health, c.Why = limited, "quantization runs in portable code, several times slower: its fast kernels need avx2, fma and f16c, and a build without the tag purego"
		c.Remedy = "use an x86-64 processor of 2013 or newer; in a virtual machine pass the host's CPU model through"
	}
	return c
}

func (d diagnosis) memory() check {
	m := d.CPU.Memory
	c := check{Name: "memory", Health: works, Found: fmt.Sprintf("%s of %s is free", size.Format(m.Free), size.Format(m.Total))}
	if m.Limit > 0 {
		c.Found += fmt.Sprintf(", a control group allows %s", size.Format(m.Limit))
	}
	if need := loader.Headroom(0); m.Free <= need {
		c.Health, c.Why, c.Remedy = missing, fmt.Sprintf("a load needs %s besides what it places", size.Format(need)), "end other programs, raise the control group's limit, or lower --staging"
	}
	return c
}

func (d diagnosis) numa() check {
	var nodes []string
	for _, n := range d.CPU.NUMA {
		if len(d.CPU.NUMA) > 1 {
			nodes = append(nodes, fmt.Sprintf("node %d: CPUs %s, %s of %s free", n.Node, orElse(n.CPUs, "none"), size.Format(n.Free), size.Format(n.Total)))
		}
	}
	return check{Name: "NUMA", Health: works, Found: strings.Join(append([]string{plural(len(d.CPU.NUMA), "node")}, nodes...), "; ")}
}

func (d diagnosis) hugePages() check {
	c := check{Name: "huge pages", Health: works, Found: orElse(d.CPU.HugePages, "the kernel has none")}
	if d.CPU.HugePages != "always" && d.CPU.HugePages != "madvise" {
		c.Health, c.Why = limited, "arenas are made of small pages: making them present is several times slower"
		c.Remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
	}
	return c
}

func (d diagnosis) sharedMemory() check {
	const little = 1 << 30
	c := check{Name: "shared memory", Health: works, Found: fmt.Sprintf("/dev/shm: %s of %s free", size.Format(d.CPU.ShmFree), size.Format(d.CPU.ShmTotal))}
	switch {
	case d.CPU.ShmTotal == 0:
		c.Health, c.Found, c.Why, c.Remedy = missing, "no /dev/shm", "other processes cannot attach to a model's memory", "mount a tmpfs on /dev/shm"
	case d.CPU.ShmFree < little:
		c.Health, c.Why = limited, "a model that other processes attach to must fit there"
		c.Remedy = "mount -o remount,size=… /dev/shm; for a container docker run --shm-size, or a Memory emptyDir on Kubernetes"
	}
	return c
}

func (d diagnosis) sharedHugePages() check {
	c := check{Name: "shared huge pages", Health: works, Found: orElse(d.CPU.ShmemHugePages, "the kernel has none")}
	switch d.CPU.ShmemHugePages {
	case "always", "within_size", "advise", "force":
	default:
		c.Health, c.Why = limited, "memory that other processes attach to is made of small pages: making it present is several times slower"
		c.Remedy = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
	}
	return c
}

func (d diagnosis) lockedMemory() check {
	limit := d.CPU.LockedLimit
	if limit < 0 || limit >= d.CPU.Memory.Total {
		return check{Name: "locked memory", Health: works, Found: "no limit"}
	}
	return check{"locked memory", limited, "at most " + size.Format(limit), "--mlock can keep no more than that from being swapped out",
		"ulimit -l unlimited; LimitMEMLOCK=infinity in systemd; --ulimit memlock=-1 for a container"}
}

func (d diagnosis) onnxRuntime() check {
	o := d.ONNXRuntime
	if o.Version == "" {
		return check{"ONNX Runtime", missing, "no library", o.Why + "; loads still place, but nothing is checked by inference",
			"`make ort` fetches the library, or set GANTRY_ORT_LIB"}
	}
	return check{Name: "ONNX Runtime", Health: works, Found: fmt.Sprintf("%s, %s (%s)", o.Version, o.Library, strings.Join(o.Providers, ", "))}
}

func (d diagnosis) driver() check {
	c := check{Name: "NVIDIA driver", Health: works, Found: fmt.Sprintf("%s, serves CUDA up to %s, %s", d.Driver, orElse(d.CUDA, "unknown"), plural(len(d.GPUs), "GPU"))}
	if d.Visible != "" {
		c.Found += ", CUDA_VISIBLE_DEVICES=" + d.Visible
	}
	if len(d.GPUs) == 0 {
		c.Health, c.Found, c.Why = missing, "no GPU", d.NoGPU
		c.Remedy = "where there is a GPU install its driver; without one, loads place in host memory"
	}
	return c
}

// oldestCompute is the oldest compute capability that CUDA 13 serves.
const oldestCompute = 7.5

func (d diagnosis) gpu(g device.GPU) check {
	found := []string{g.Name, fmt.Sprintf("%s of %s free", size.Format(g.Free), size.Format(g.Total)), "compute capability " + g.Compute, g.PCI, g.UUID}
	if g.NUMA >= 0 {
		found = append(found, fmt.Sprintf("NUMA node %d", g.NUMA))
	}
	if len(g.NVLinkPeers) > 0 {
		found = append(found, fmt.Sprintf("%s to %s", plural(g.NVLinks, "NVLink"), strings.Join(g.NVLinkPeers, " ")))
	}
	c := check{Name: g.ID, Health: works, Found: strings.Join(found, ", ")}
	var compute float64
	switch _, err := fmt.Sscan(g.Compute, &compute); {
	case g.Total == 0:
		c.Health, c.Found, c.Why, c.Remedy = missing, "a GPU that cannot be read", "see detection below", "nvidia-smi tells more; a GPU that fell off the bus needs a reset"
	case g.MIG:
		var ids []string
		for _, m := range g.Instances {
			ids = append(ids, m.UUID)
		}
		c.Health, c.Why = limited, fmt.Sprintf("it is split (MIG), into %s: CUDA shows no whole GPU", orElse(strings.Join(ids, " "), "no instance yet"))
		c.Remedy = "run a worker for each instance, with CUDA_VISIBLE_DEVICES=MIG-…; or nvidia-smi -mig 0"
	case err != nil || compute < oldestCompute:
		c.Health, c.Why, c.Remedy = missing, fmt.Sprintf("CUDA 13 serves compute capability %.1f and newer", oldestCompute), "use another GPU, or --device cpu"
	}
	return c
}

// placing says whether arenas can be made on the GPUs.
func (d diagnosis) placing() check {
	gpus, err := device.Parse("cuda")
	if err == nil {
		_, err = gpus.Resolve(d.Inventory)
	}
	if err != nil {
		return check{"placing on GPUs", missing, "loads place in host memory", err.Error(), "see docs/gpu.md"}
	}
	return check{Name: "placing on GPUs", Health: works, Found: "loads place there unless --device says otherwise"}
}
