package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/cmd/internal/values"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
)

const (
	// maxValues is how many elements of an output --json has at most; --output
	// writes all.
	maxValues = 4096
	// shownValues is how many the summary has.
	shownValues = 5
)

// runReport is what `run --json` prints.
type runReport struct {
	Model       string `json:"model"`
	URI         string `json:"uri"`
	Runtime     string `json:"runtime"` // "onnxruntime 1.29.0"
	Device      string `json:"device"`
	BytesRead   int64  `json:"bytes_read"`
	BytesPlaced int64  `json:"bytes_placed"`
	PeakStaging int64  `json:"peak_staging_bytes"`
	// WeightsInPlace are used where they lie in the arena, WeightsInGraph are
	// copied into the graph; bytes.
	WeightsInPlace int64 `json:"weights_in_place_bytes"`
	WeightsInGraph int64 `json:"weights_in_graph_bytes"`
	Seconds        struct {
		Load    float64 `json:"load"`
		Session float64 `json:"session"`
		Run     float64 `json:"run"`
	} `json:"seconds"`
	Inputs  []runTensor `json:"inputs"`
	Outputs []runTensor `json:"outputs"`
}

// runTensor is an input or an output.
type runTensor struct {
	Name      string   `json:"name"`
	DType     string   `json:"dtype"` // "" of what is no tensor of numbers
	Shape     []int64  `json:"shape"`
	Min       *float64 `json:"min,omitempty"` // of the finite numbers
	Max       *float64 `json:"max,omitempty"`
	Mean      *float64 `json:"mean,omitempty"`
	NonFinite int64    `json:"non_finite,omitempty"` // NaN and Inf
	Values    []any    `json:"values,omitempty"`     // row-major; "NaN", "+Inf", "-Inf" where JSON has no number
	Omitted   bool     `json:"values_omitted,omitempty"`
	File      string   `json:"file,omitempty"`
}

func newRunReport(m *model.Model, lib *ort.Runtime) *runReport {
	rep := m.Report()
	r := &runReport{Model: m.Metadata().Name, URI: rep.URI, Runtime: "onnxruntime " + lib.Version(), Device: m.Ranks()[0].Device,
		BytesRead: rep.BytesRead, BytesPlaced: rep.BytesPlaced, PeakStaging: rep.PeakStaging, Inputs: []runTensor{}, Outputs: []runTensor{}}
	r.Seconds.Load = rep.Seconds
	return r
}

// weights counts where the graph's weights are.
func (r *runReport) weights(g *onnx.Graph) {
	for _, w := range g.Weights {
		if w.Embedded {
			r.WeightsInGraph += w.Bytes
		} else {
			r.WeightsInPlace += w.Bytes
		}
	}
}

func newRunTensor(x ort.Tensor) runTensor {
	t := runTensor{Name: x.Name, Shape: nonNil(x.Shape)}
	if x.Type != dtype.Invalid {
		t.DType = x.Type.String()
	}
	return t
}

// look adds what can be said of the elements.
func (t *runTensor) look(x ort.Tensor) {
	if t.DType == "" {
		return
	}
	s := values.StatsOf(x)
	t.NonFinite = s.NonFinite
	if s.Count > s.NonFinite {
		t.Min, t.Max, t.Mean = &s.Min, &s.Max, &s.Mean
	}
	if t.Omitted = s.Count > maxValues; t.Omitted {
		s.Count = shownValues
	}
	for i := range int(s.Count) {
		v := values.Number(x.Type, x.Data, i)
		if !values.Finite(v) {
			v = fmt.Sprintf("%+v", v)
		}
		t.Values = append(t.Values, v)
	}
}

// write writes the report as tables for people.
func (r *runReport) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "model\t%s from %s\n", r.Model, r.URI)
	fmt.Fprintf(tw, "weights\t%s in place on %s, %s in the graph\n", size.Format(r.WeightsInPlace), r.Device, size.Format(r.WeightsInGraph))
	fmt.Fprintf(tw, "runtime\t%s\n", r.Runtime)
	fmt.Fprintf(tw, "seconds\tload %.3f, session %.3f, run %.3f\n", r.Seconds.Load, r.Seconds.Session, r.Seconds.Run)
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return table(w, "OUTPUT\tTYPE\tSHAPE\tMIN\tMAX\tMEAN\tVALUES", len(r.Outputs), func(tw io.Writer, i int) {
		t := r.Outputs[i]
		if t.DType == "" {
			fmt.Fprintf(tw, "%s\tno numbers\t%v\t\t\t\t\n", t.Name, t.Shape)
			return
		}
		fmt.Fprintf(tw, "%s\t%s\t%v\t%s\t%s\t%s\t%s\n", t.Name, t.DType, t.Shape, number(t.Min), number(t.Max), number(t.Mean), t.shown())
	})
}

func number(f *float64) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%.6g", *f)
}

// shown writes the first values, what is not finite, and the file.
func (t *runTensor) shown() string {
	var parts []string
	for i, v := range t.Values {
		if i == shownValues {
			break
		}
		switch v.(type) {
		case float32, float64:
			v = fmt.Sprintf("%.6g", v)
		}
		parts = append(parts, fmt.Sprint(v))
	}
	if len(t.Values) > shownValues || t.Omitted {
		parts = append(parts, "…")
	}
	if t.NonFinite > 0 {
		parts = append(parts, fmt.Sprintf("(%d not finite)", t.NonFinite))
	}
	if t.File != "" {
		parts = append(parts, "→ "+t.File)
	}
	return strings.Join(parts, " ")
}

// fileNames makes a file's name of each output's. A name is data: what is not
// a letter, a digit, a dot, a dash or an underscore becomes an underscore, and
// one that would be another's, or is hidden, gets its number before it.
func fileNames(outputs []ort.Tensor) []string {
	names := make([]string, len(outputs))
	taken := map[string]bool{}
	for i, x := range outputs {
		name := strings.Map(func(r rune) rune {
			if r < 0x80 && (r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
				return r
			}
			return '_'
		}, x.Name)
		if len(name) > 200 {
			name = name[:200]
		}
		if key := strings.ToLower(name); taken[key] || strings.HasPrefix(name, ".") || name == "" {
			name = fmt.Sprintf("%d_%s", i, name)
		}
		taken[strings.ToLower(name)] = true
		names[i] = name + ".npy"
	}
	return names
}

// writeOutput writes an output to a file, whose folder it makes.
func writeOutput(path string, x ort.Tensor) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return &recovery.Error{Class: recovery.NotAllowed, Op: "create", File: filepath.Dir(path), Err: err}
	}
	return values.WriteNpy(path, x)
}
