package device

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// CPU is the id of the host's device.
const CPU = "cpu"

const (
	auto       = "auto"
	cuda       = "cuda" // all GPUs
	cudaPrefix = cuda + ":"
)

// Selection is what a user asks for: devices by id, or that Gantry chooses.
// The zero value is Auto().
type Selection struct {
	ids []string // "cpu", "cuda:0", "cuda"; empty is auto
}

// Auto lets Gantry choose among the devices it finds and can place on.
func Auto() Selection { return Selection{} }

// Parse reads a selection: "auto" (or nothing), or a list of devices such as
// "cpu" or "cuda:0,cuda:1"; "cuda" is every GPU. Errors are of class usage.
func Parse(s string) (Selection, error) {
	if s == "" || s == auto {
		return Auto(), nil
	}
	var out Selection
	for id := range strings.SplitSeq(s, ",") {
		if err := checkID(id); err != nil {
			return Selection{}, err
		}
		if slices.ContainsFunc(out.ids, func(o string) bool { return o == id || o == cuda && id != CPU || id == cuda && o != CPU }) {
			return Selection{}, recovery.Errorf(recovery.Usage, "device %q is named twice", id)
		}
		out.ids = append(out.ids, id)
	}
	return out, nil
}

// checkID accepts "cpu", "cuda", and "cuda:N" with N as strconv writes it.
func checkID(id string) error {
	if id == CPU || id == cuda {
		return nil
	}
	if n, ok := cudaIndex(id); ok && id == cudaPrefix+strconv.Itoa(n) {
		return nil
	}
	return recovery.Errorf(recovery.Usage, "unknown device %q: want auto, cuda, or a list of cpu and cuda:N", id)
}

// cudaIndex returns N of "cuda:N".
func cudaIndex(id string) (int, bool) {
	rest, ok := strings.CutPrefix(id, cudaPrefix)
	n, err := strconv.Atoi(rest)
	return n, ok && err == nil && n >= 0
}

// String writes the selection as Parse reads it.
func (s Selection) String() string {
	if len(s.ids) == 0 {
		return auto
	}
	return strings.Join(s.ids, ",")
}

// MarshalText writes the selection as Parse reads it.
func (s Selection) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a selection as Parse does.
func (s *Selection) UnmarshalText(b []byte) (err error) {
	*s, err = Parse(string(b))
	return err
}

// Info is a device that arenas can be made on.
type Info struct {
	ID    string `json:"id"`    // what NewArena takes
	Name  string `json:"name"`  // the model, for people
	Total int64  `json:"total"` // memory, bytes
	Free  int64  `json:"free"`  // memory that arenas may take now, bytes
	// Compute is the compute capability of a CUDA device, such as "8.0".
	Compute string `json:"compute_capability,omitempty"`
	UUID    string `json:"uuid,omitempty"` // of a GPU, or of the MIG instance that it is
	// NUMA is the node that a GPU is attached to, -1 where that is not known;
	// host memory is of all nodes, and has -1.
	NUMA int `json:"numa_node"`
	// NVLinkPeers are the devices whose memory it reaches by NVLink.
	NVLinkPeers []string `json:"nvlink_peers,omitempty"`
}

// gpuHeadroom is what is left free of a GPU of so much memory, for CUDA's
// context and for what a session computes in.
func gpuHeadroom(total int64) int64 { return max(512<<20, total/20) }

// Info returns the GPU as a device that arenas can be made on.
func (g GPU) Info() Info {
	return Info{ID: g.ID, Name: g.Name, Total: g.Total, Free: max(g.Free-gpuHeadroom(g.Total), 0), Compute: g.Compute,
		UUID: g.UUID, NUMA: g.NUMA, NVLinkPeers: g.NVLinkPeers}
}

// Info returns the host's memory as a device that arenas can be made on.
func (c CPUInfo) Info() Info {
	return Info{ID: CPU, Name: c.Name, Total: c.Memory.Total, Free: c.Memory.Free, NUMA: -1}
}

// Resolve returns the selected devices of this machine, in the order asked
// for. Auto is all GPUs, or the CPU where none can be placed on. A device that
// was asked for by name and cannot be used is an error of class out_of_capacity
// that says what is missing: never another device in its place.
func (s Selection) Resolve(inv Inventory) ([]Info, error) {
	return s.resolve(inv, func(id string) error { _, err := openCUDA(id); return err })
}

// resolve is Resolve, given what says why a GPU that is there cannot be used.
func (s Selection) resolve(inv Inventory, usable func(id string) error) ([]Info, error) {
	ids := s.named(inv)
	if len(s.ids) == 0 {
		for _, g := range inv.GPUs {
			if !g.MIG && usable(g.ID) == nil {
				ids = append(ids, g.ID)
			}
		}
		if len(ids) == 0 {
			ids = []string{CPU}
		}
	}
	var out []Info
	for _, id := range ids {
		if id == CPU {
			out = append(out, inv.CPU.Info())
			continue
		}
		g, err := inv.gpu(id)
		if err == nil {
			err = usable(id)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, g.Info())
	}
	return out, nil
}

// named returns the ids that the selection names on this machine, none for
// auto. cuda stays as it is where there is no GPU.
func (s Selection) named(inv Inventory) []string {
	var ids []string
	for _, id := range s.ids {
		if id != cuda || len(inv.GPUs) == 0 {
			ids = append(ids, id)
			continue
		}
		for _, g := range inv.GPUs {
			ids = append(ids, g.ID)
		}
	}
	return ids
}

// gpu returns the GPU with an id, or says why there is none.
func (inv Inventory) gpu(id string) (GPU, error) {
	missing := func(format string, args ...any) (GPU, error) {
		return GPU{}, &recovery.Error{
			Class: recovery.OutOfCapacity,
			Op:    "use device " + id,
			Err:   fmt.Errorf(format, args...),
			Hint:  "use --device cpu or auto",
		}
	}
	n, _ := cudaIndex(id)
	switch {
	case len(inv.GPUs) == 0:
		return missing("there is no GPU: %s", inv.NoGPU)
	case n >= len(inv.GPUs):
		return missing("this machine has %d GPUs, the last is %s%d", len(inv.GPUs), cudaPrefix, len(inv.GPUs)-1)
	}
	if inv.GPUs[n].MIG {
		return missing("it is split (MIG), and CUDA shows its instances in its place: name one in CUDA_VISIBLE_DEVICES")
	}
	return inv.GPUs[n], nil
}
