package device

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Memory is what this machine's memory allows, bytes.
type Memory struct {
	Total     int64 `json:"total"`     // MemTotal
	Available int64 `json:"available"` // MemAvailable: free, or reclaimable without swapping
	// Limit is the lowest limit that a control group puts on this process, 0
	// where there is none.
	Limit int64 `json:"cgroup_limit,omitempty"`
	// Free is what an arena may take now: Available, or what the control
	// groups leave where that is less.
	Free int64 `json:"free"`
}

// rootFS is the file system that the kernel's facts are read from.
var rootFS = os.DirFS("/")

// readMemory reads /proc/meminfo and the memory controllers of this process's
// control groups below root.
func readMemory(root fs.FS) (Memory, error) {
	b, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return Memory{}, fmt.Errorf("device: read memory: %w", err)
	}
	kib := keyed(b, ":")
	m := Memory{Total: kib["MemTotal"] << 10, Available: kib["MemAvailable"] << 10}
	if m.Total <= 0 || m.Available <= 0 {
		return Memory{}, fmt.Errorf("device: proc/meminfo names no MemTotal or MemAvailable")
	}
	m.Free = m.Available
	for _, g := range memoryGroups(root) {
		limit, ok := g.number(root, g.limit)
		if !ok || limit >= m.Total {
			continue // none, or one that does not bind
		}
		if m.Limit == 0 || limit < m.Limit {
			m.Limit = limit
		}
		usage, _ := g.number(root, g.usage)
		m.Free = min(m.Free, max(limit-usage+g.reclaimable(root), 0))
	}
	return m, nil
}

// group is one control group's folder and the names its version gives to the
// memory controller's files.
type group struct {
	dir                  string
	limit, usage, active string
	inactive             string
}

// memoryGroups returns the memory groups of this process and their ancestors,
// which limit it as well. In a container the path that the kernel tells may
// be the host's, which is not visible: then the mount's root is the group.
func memoryGroups(root fs.FS) []group {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil // a kernel without control groups sets no limit
	}
	var out []group
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		var g group
		var mount string
		switch {
		case f[0] == "0" && f[1] == "":
			mount = "sys/fs/cgroup"
			g = group{limit: "memory.max", usage: "memory.current", active: "active_file", inactive: "inactive_file"}
		case f[1] == "memory":
			mount = "sys/fs/cgroup/memory"
			g = group{limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", active: "total_active_file", inactive: "total_inactive_file"}
		default:
			continue
		}
		for p := path.Join("/", f[2]); ; p = path.Dir(p) {
			g.dir = path.Join(mount, p)
			out = append(out, g)
			if p == "/" {
				break
			}
		}
	}
	return out
}

// number reads one number of the group; false where the file is missing or
// says "max".
func (g group) number(root fs.FS, name string) (int64, bool) {
	b, err := fs.ReadFile(root, path.Join(g.dir, name))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return int64(min(n, math.MaxInt64)), err == nil
}

// reclaimable is the page cache that counts as the group's usage and that the
// kernel gives up for an arena.
func (g group) reclaimable(root fs.FS) int64 {
	b, err := fs.ReadFile(root, path.Join(g.dir, "memory.stat"))
	if err != nil {
		return 0
	}
	stat := keyed(b, " ")
	return stat[g.active] + stat[g.inactive]
}

// keyed reads lines of a name, sep and a number; what follows the number is
// its unit and ignored, as are other lines.
func keyed(b []byte, sep string) map[string]int64 {
	out := map[string]int64{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), sep)
		f := strings.Fields(rest)
		if len(f) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
			out[name] = n
		}
	}
	return out
}
