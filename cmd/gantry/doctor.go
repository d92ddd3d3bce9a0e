package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/spf13/cobra"
)

// diagnosis is what `doctor --json` prints.
type diagnosis struct {
	device.Inventory
	Kernels     string       `json:"kernels"` // of quantization
	ONNXRuntime ortDiagnosis `json:"onnx_runtime"`
	Checks      []check      `json:"checks"`
}

type ortDiagnosis struct {
	Library   string   `json:"library,omitempty"`
	Version   string   `json:"version,omitempty"`
	Providers []string `json:"providers"`
	Why       string   `json:"why,omitempty"` // there is none
}

// health is how far something works.
type health string

const (
	works   health = "ok"
	limited health = "limited" // works, slower or less of it
	missing health = "missing" // does not work
)

// check is one thing that was looked at.
type check struct {
	Name   string `json:"name"`
	Health health `json:"health"`
	Found  string `json:"found"`
	Why    string `json:"why,omitempty"`    // it is not ok
	Remedy string `json:"remedy,omitempty"` // what to do
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what works on this machine, what does not, and what to do",
		Long: `Look at the devices, memory, limits and libraries of this machine. Each thing is
ok, limited (it works, slower or less of it) or missing, with the reason and the
remedy. Exits 0: what is found is advice.`,
		Example: `  gantry doctor
  gantry doctor --json | jq '.checks[] | select(.health != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d := diagnose()
			return a.print(d, d.write)
		},
	}
}

func diagnose() diagnosis {
	d := diagnosis{Inventory: device.Detect(), Kernels: quant.Kernels(), ONNXRuntime: ortDiagnosis{Providers: []string{}}}
	if rt, err := openORT(); err != nil {
		d.ONNXRuntime.Why = err.Error()
		if e := (*recovery.Error)(nil); errors.As(err, &e) {
			d.ONNXRuntime.Why = e.Err.Error() // the check has the remedy
		}
	} else {
		d.ONNXRuntime = ortDiagnosis{Library: rt.Path(), Version: rt.Version(), Providers: rt.Providers()}
	}
	d.Checks = d.examine()
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
	bad := 0
	for _, c := range d.Checks {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", c.Health, c.Name, c.Found)
		if c.Health == works {
			continue
		}
		bad++
		if c.Why != "" {
			fmt.Fprintf(tw, "\t\twhy: %s\n", c.Why)
		}
		if c.Remedy != "" {
			fmt.Fprintf(tw, "\t\tdo:  %s\n", c.Remedy)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if bad == 0 {
		_, err := fmt.Fprintln(w, "\neverything works")
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d of %d things are limited or missing\n", bad, len(d.Checks))
	return err
}
