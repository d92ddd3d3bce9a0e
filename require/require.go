package require

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Requirements is what a load asks of a machine. The zero value asks nothing.
type Requirements struct {
	Device  string   `json:"device,omitempty"`             // kind of device: "cpu" or "cuda"
	Compute string   `json:"compute_capability,omitempty"` // the least, such as "8.0": of a CUDA device
	CPU     []string `json:"cpu_features,omitempty"`       // as device.CPUInfo names them: "avx2", "f16c"
	Memory  int64    `json:"memory,omitempty"`             // bytes that a device must have free
}

// And returns what both ask for. It fails, with class out_of_capacity, where no
// device can have that.
func (r Requirements) And(o Requirements) (Requirements, error) {
	if r.Device != "" && o.Device != "" && r.Device != o.Device {
		return r, lacking("a %s device is required, and a %s device too", r.Device, o.Device)
	}
	out := Requirements{Device: cmp.Or(r.Device, o.Device), Compute: r.Compute, CPU: slices.Clone(r.CPU), Memory: max(r.Memory, o.Memory)}
	if r.Compute == "" || o.Compute != "" && !atLeast(r.Compute, o.Compute) {
		out.Compute = o.Compute
	}
	if out.Device == "cpu" && out.Compute != "" {
		return r, lacking("a cpu device is required, and compute capability %s too", out.Compute)
	}
	for _, f := range o.CPU {
		if !slices.Contains(out.CPU, f) {
			out.CPU = append(out.CPU, f)
		}
	}
	slices.Sort(out.CPU)
	return out, nil
}

// String writes the requirements for people, as --require reads them.
func (r Requirements) String() string {
	var s []string
	add := func(key, value string) {
		if value != "" {
			s = append(s, key+"="+value)
		}
	}
	add("device", r.Device)
	add("compute", r.Compute)
	add("cpu", strings.Join(r.CPU, ","))
	if r.Memory > 0 {
		add("memory", strconv.FormatInt(r.Memory, 10))
	}
	return strings.Join(s, " ")
}

// Machine is what a machine has.
type Machine struct {
	CPU     []string // features
	Devices []Device
}

// Device is one device of a machine.
type Device struct {
	ID      string // "cpu", "cuda:0"
	Compute string // compute capability of a CUDA device
	Free    int64  // memory, bytes
}

// Validate says, with class usage, what of the requirements makes no sense.
func (r Requirements) Validate() error {
	if r.Device != "" && r.Device != "cpu" && r.Device != "cuda" {
		return usage("device %q: want cpu or cuda", r.Device)
	}
	if r.Compute != "" {
		if _, _, ok := version(r.Compute); !ok {
			return usage("compute capability %q: want a number such as 8.0", r.Compute)
		}
		if r.Device == "cpu" {
			return usage("a CPU has no compute capability")
		}
	}
	if r.Memory < 0 {
		return usage("memory of %d bytes", r.Memory)
	}
	if slices.Contains(r.CPU, "") {
		return usage("a CPU feature without a name")
	}
	return nil
}

// Empty reports whether nothing is asked.
func (r Requirements) Empty() bool {
	return r.Device == "" && r.Compute == "" && len(r.CPU) == 0 && r.Memory == 0
}

// Check says, with class out_of_capacity, why the load must not use the
// machine: its CPU lacks a feature, or no device has what is asked.
func (r Requirements) Check(m Machine) error {
	for _, f := range r.CPU {
		if !slices.Contains(m.CPU, f) {
			return lacking("the CPU has no %s, which is required (it has: %s)", f, orNone(m.CPU))
		}
	}
	var why error
	for _, d := range m.Devices {
		err := r.CheckDevice(d)
		if err == nil {
			return nil
		}
		if why == nil {
			why = err
		}
	}
	if why == nil && !r.Empty() {
		return lacking("there is no device")
	}
	return why
}

// CheckDevice says, with class out_of_capacity, why the load must not use the
// device.
func (r Requirements) CheckDevice(d Device) error {
	kind, _, _ := strings.Cut(d.ID, ":")
	switch {
	case r.Device != "" && r.Device != kind:
		return lacking("a %s device is required, %s is none", r.Device, d.ID)
	case r.Compute != "" && !atLeast(d.Compute, r.Compute):
		return lacking("compute capability %s is required, %s has %s", r.Compute, d.ID, orNone([]string{d.Compute}))
	case d.Free < r.Memory:
		return lacking("%d bytes of free memory are required, %s has %d", r.Memory, d.ID, d.Free)
	}
	return nil
}

// atLeast compares compute capabilities. One that is not known is less than
// any.
func atLeast(have, want string) bool {
	major, minor, ok := version(have)
	wantMajor, wantMinor, _ := version(want)
	return ok && (major > wantMajor || major == wantMajor && minor >= wantMinor)
}

// version reads "8.6", or "8".
func version(s string) (major, minor uint64, ok bool) {
	first, second, dot := strings.Cut(s, ".")
	major, err := strconv.ParseUint(first, 10, 16)
	if dot && err == nil {
		minor, err = strconv.ParseUint(second, 10, 16)
	}
	return major, minor, err == nil
}

func orNone(s []string) string {
	if text := strings.Join(s, ", "); text != "" {
		return text
	}
	return "none"
}

func usage(format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: "require", Err: fmt.Errorf(format, args...)}
}

func lacking(format string, args ...any) error {
	return &recovery.Error{Class: recovery.OutOfCapacity, Op: "require", Err: fmt.Errorf(format, args...),
		Hint: "load it where that is, or ask for less (--require, or the model's gantry.require.json)"}
}
