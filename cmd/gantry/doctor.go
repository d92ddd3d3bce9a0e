package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/spf13/cobra"
)

// diagnosis is what `doctor --json` prints.
type diagnosis struct {
	device.Inventory
	ONNXRuntime ortDiagnosis `json:"onnx_runtime"`
	Findings    []finding    `json:"findings"`
}

type ortDiagnosis struct {
	Library   string   `json:"library,omitempty"`
	Version   string   `json:"version,omitempty"`
	Providers []string `json:"providers"`
}

// finding is something that does not work, or not as well as it could.
type finding struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what works on this machine, what does not, and what to do",
		Long: `Show devices, memory and the ONNX Runtime library of this machine, and for
whatever is missing or slow its reason and remedy. Exits 0: a finding is advice.`,
		Example: "  gantry doctor\n  gantry doctor --json | jq .findings",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d := diagnose()
			return a.print(d, d.write)
		},
	}
}

func diagnose() diagnosis {
	d := diagnosis{Inventory: device.Detect(), ONNXRuntime: ortDiagnosis{Providers: []string{}}, Findings: []finding{}}
	found := func(what, remedy string) { d.Findings = append(d.Findings, finding{what, remedy}) }

	if rt, err := openORT(); err != nil {
		found("ONNX Runtime: "+err.Error(), "loads still place, but are not checked by inference; `make ort` fetches the library, or set GANTRY_ORT_LIB")
	} else {
		d.ONNXRuntime = ortDiagnosis{rt.Path(), rt.Version(), rt.Providers()}
	}
	if len(d.GPUs) == 0 {
		found("no GPU: "+d.NoGPU, "install the NVIDIA driver where there is a GPU; loads place in CPU memory")
	} else {
		found("GPUs are detected, but this version places in CPU memory only", "use --device cpu")
	}
	if d.CPU.HugePages == "never" {
		found("huge pages are off for private memory: arenas fault slowly", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
	}
	for _, p := range d.Problems {
		found(p, "check the permissions of /proc and /sys")
	}
	return d
}

// openORT finds and opens the ONNX Runtime library.
func openORT() (*ort.Runtime, error) {
	path, err := ort.Find()
	if err != nil {
		return nil, err
	}
	return ort.Open(path)
}

func (d diagnosis) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	c := d.CPU
	fmt.Fprintf(tw, "cpu\t%s, %s, %s, %s\n", c.Name, plural(c.Cores, "core"), plural(len(c.NUMA), "NUMA node"), strings.Join(c.Features, " "))
	fmt.Fprintf(tw, "memory\t%s of %s free for arenas\n", size.Format(c.Memory.Free), size.Format(c.Memory.Total))
	fmt.Fprintf(tw, "huge pages\tprivate memory: %s, shared memory: %s\n", orElse(c.HugePages, "none"), orElse(c.ShmemHugePages, "none"))
	if d.Driver != "" {
		fmt.Fprintf(tw, "driver\tNVIDIA %s, CUDA %s\n", d.Driver, d.CUDA)
	}
	for _, g := range d.GPUs {
		fmt.Fprintf(tw, "%s\t%s, %s of %s free, compute capability %s, %s\n", g.ID, g.Name, size.Format(g.Free), size.Format(g.Total), g.Compute, plural(g.NVLinks, "NVLink"))
	}
	if o := d.ONNXRuntime; o.Version != "" {
		fmt.Fprintf(tw, "onnx runtime\t%s, %s (%s)\n", o.Version, o.Library, strings.Join(o.Providers, ", "))
	}
	for _, f := range d.Findings {
		fmt.Fprintf(tw, "finding\t%s\n\t→ %s\n", f.What, f.Remedy)
	}
	return tw.Flush()
}
