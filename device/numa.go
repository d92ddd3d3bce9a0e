package device

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// NUMANode is a part of the machine whose processors reach its memory
// faster than other memory.
type NUMANode struct {
	Node  int    `json:"node"`
	CPUs  string `json:"cpus"`  // as the kernel lists them: "0-15,32-47"; empty for memory without processors
	Total int64  `json:"total"` // memory, bytes
	Free  int64  `json:"free"`  // free, or page cache that can be given up, bytes
}

// numaNodes lists the nodes whose memory this process may use. A kernel
// without NUMA has one, of which no more is known.
func numaNodes(root fs.FS) ([]NUMANode, error) {
	const dir = "sys/devices/system/node"
	entries, err := fs.ReadDir(root, dir)
	if err != nil {
		return []NUMANode{{}}, nil
	}
	allowed := memsAllowed(root)
	var nodes []NUMANode
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "node")
		n, err := strconv.Atoi(rest)
		if !ok || err != nil || allowed != nil && !slices.Contains(allowed, n) {
			continue
		}
		b, err := fs.ReadFile(root, path.Join(dir, e.Name(), "meminfo"))
		if err != nil {
			return []NUMANode{{}}, fmt.Errorf("device: read NUMA node %d: %w", n, err)
		}
		kib := keyed([]byte(strings.ReplaceAll(string(b), fmt.Sprintf("Node %d ", n), "")), ":")
		cpus, err := fs.ReadFile(root, path.Join(dir, e.Name(), "cpulist"))
		if err != nil {
			return []NUMANode{{}}, fmt.Errorf("device: read NUMA node %d: %w", n, err)
		}
		nodes = append(nodes, NUMANode{Node: n, CPUs: strings.TrimSpace(string(cpus)), Total: kib["MemTotal"] << 10,
			Free: (kib["MemFree"] + kib["Active(file)"] + kib["Inactive(file)"] + kib["SReclaimable"]) << 10})
	}
	if len(nodes) == 0 {
		return []NUMANode{{}}, nil
	}
	slices.SortFunc(nodes, func(a, b NUMANode) int { return a.Node - b.Node })
	return nodes, nil
}

// memsAllowed returns the nodes that this process may have memory of, nil
// where the kernel does not say.
func memsAllowed(root fs.FS) []int {
	b, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if list, ok := strings.CutPrefix(line, "Mems_allowed_list:"); ok {
			return numbers(strings.TrimSpace(list))
		}
	}
	return nil
}

// numbers reads a list as the kernel writes it, such as "0-3,8". What is no
// number is left out.
func numbers(list string) []int {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || to-from > 1<<16 {
			continue
		}
		for n := from; n <= to; n++ {
			out = append(out, n)
		}
	}
	return out
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
