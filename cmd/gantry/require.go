package main

import (
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/require"
	"github.com/spf13/pflag"
)

// requireFlags are the --require flags of load and plan.
type requireFlags []string

func (f *requireFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar((*[]string)(f), "require", nil,
		"refuse to load where this is not: `KEY=VALUE`, device=cpu or cuda, compute=8.0 (CUDA capability), cpu=avx2 (a feature), memory=16GiB (free on a device) (repeatable)")
}

// parse returns what the flags ask.
func (f requireFlags) parse() (require.Requirements, error) {
	var r require.Requirements
	for _, s := range f {
		key, value, ok := strings.Cut(s, "=")
		if !ok || value == "" {
			return r, usagef("--require %s: want KEY=VALUE, such as cpu=avx2", s)
		}
		var err error
		switch key {
		case "device":
			r.Device = value
		case "compute":
			r.Compute = value
		case "cpu":
			for feature := range strings.SplitSeq(value, ",") {
				r.CPU = append(r.CPU, strings.ToLower(feature))
			}
		case "memory":
			r.Memory, err = size.Parse(value)
		default:
			err = usagef("--require %s: want device, compute, cpu or memory", s)
		}
		if err != nil {
			return r, err
		}
	}
	slices.Sort(r.CPU)
	return r, r.Validate()
}

// checkHere says why a load on this machine would not have what is required.
func checkHere(r require.Requirements) error {
	if r.Empty() {
		return nil
	}
	_, err := device.Auto().Meeting(device.Detect(), r)
	return err
}
