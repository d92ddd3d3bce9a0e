package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/cmd/internal/values"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/model/session"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/source"
	"github.com/spf13/cobra"
)

// runFlags are the flags of run.
type runFlags struct {
	inputs, dims []string
	output       string
	device       string
	quant        string
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run MODEL --input NAME=…",
		Short: "Run an ONNX model over its placed weights, and show the outputs",
		Long: `Load an ONNX model in this process as load does, make an ONNX Runtime session
over the weights where they lie in the arena, without copying them, run it once,
and show the outputs. Without --input it says what the graph wants.

Each --input is NAME= and one of: the path of a .npy file; JSON values, nested
as the shape is or flat (one number fills the whole shape); zeros; ones;
random:SEED, which draws the same numbers on every machine (floats from -1 to 1,
integers from 0 to 9). The sizes of free axes come from the values or from
--dim, by the axis's name or as INPUT:INDEX.`,
		Example: `  gantry run model.onnx
  gantry run model.onnx --input pixels=image.npy --output ./out
  gantry run model.onnx --input ids='[[101,7592,102]]' --input mask=ones --dim batch=1 --dim length=3
  gantry run model.onnx --input x=random:7 --dim batch=4 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.server != "" {
				return usagef("run works in this process: leave --server out")
			}
			return a.run(cmd.Context(), args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.inputs, "input", nil, "`NAME=VALUES` of an input of the graph (repeatable)")
	flags.StringArrayVar(&f.dims, "dim", nil, "`AXIS=N`, the size of a free axis, such as batch=1 (repeatable)")
	flags.StringVar(&f.output, "output", "", "write each output to a .npy file in folder `DIR`")
	flags.StringVar(&f.device, "device", "cpu", "device to place and run on: cpu, cuda:N")
	flags.StringVar(&f.quant, "quant", "", "what weights become; refused where the graph would not take it")
	return cmd
}

// run checks everything that can be checked before anything is loaded, then
// loads, runs and reports.
func (a *app) run(ctx context.Context, uri string, f runFlags) error {
	graph, err := readGraph(ctx, uri)
	if err != nil {
		return err
	}
	inputs, err := values.Inputs(graph, f.inputs, f.dims)
	if err != nil {
		return err
	}
	devices, err := device.Parse(f.device)
	if err != nil {
		return err
	}
	lib, err := ort.Open("")
	if err != nil {
		return err
	}
	var bar *bytesBar
	l := loader.New(loader.WithDevice(devices), loader.WithQuantization(quant.Config{Scheme: f.quant}),
		loader.WithProgress(func(u progress.Update) { bar.set(u.BytesDone, u.BytesTotal) }))
	plan, err := l.Plan(ctx, uri)
	if err != nil {
		return err
	}
	if err := session.Check(plan); err != nil {
		return err
	}
	bar = a.bytesBar("loading " + uri)
	m, err := l.Load(ctx, uri)
	bar.done(err)
	if err != nil {
		return err
	}
	r := newRunReport(m, lib)
	if err := errors.Join(r.execute(ctx, m, inputs, f.output), m.Close()); err != nil {
		return err
	}
	return a.print(r, func(w io.Writer) error { return r.write(w) })
}

// readGraph reads how a model is run, without its weights.
func readGraph(ctx context.Context, uri string) (g *onnx.Graph, err error) {
	src, err := source.Open(ctx, uri, source.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return session.ReadGraph(ctx, src)
}

// execute runs the model once and keeps what is to be reported.
func (r *runReport) execute(ctx context.Context, m *model.Model, inputs []ort.Tensor, dir string) (err error) {
	started := time.Now()
	s, err := session.Open(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r.Seconds.Session, started = time.Since(started).Seconds(), time.Now()
	outputs, err := s.Run(ctx, inputs)
	if err != nil {
		return err
	}
	r.Seconds.Run = time.Since(started).Seconds()
	r.weights(s.Graph())
	for _, x := range inputs {
		r.Inputs = append(r.Inputs, newRunTensor(x))
	}
	files := fileNames(outputs)
	for i, x := range outputs {
		t := newRunTensor(x)
		if dir != "" && t.DType != "" {
			t.File = filepath.Join(dir, files[i])
			if err := writeOutput(t.File, x); err != nil {
				return err
			}
		}
		t.look(x)
		r.Outputs = append(r.Outputs, t)
	}
	return nil
}
