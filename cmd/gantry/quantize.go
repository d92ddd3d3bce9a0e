package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/shard"
	"github.com/spf13/cobra"
)

func (a *app) quantizeCommand() *cobra.Command {
	var o shard.Options
	var q quantFlags
	var out string
	cmd := &cobra.Command{
		Use:   "quantize MODEL --to SCHEME --out FILE",
		Short: "Load, join the ranks, and write the result as safetensors",
		Long: `Load a checkpoint in this process with a scheme, join its ranks, and write the
result as one .safetensors file with its config.json beside it. The parallel
layout changes no byte. A scheme that safetensors has no layout for is wrong
usage.`,
		Example: "  gantry quantize ./model --to int8 --out ./model-int8/model.safetensors",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" || q.scheme == "" {
				return usagef("quantize needs --to SCHEME and --out FILE")
			}
			c, err := q.config()
			if err != nil {
				return err
			}
			if !strings.HasSuffix(out, ".safetensors") {
				return usagef("--out %s: want a name that ends in .safetensors", out)
			}
			ctx := cmd.Context()
			var bar *bytesBar
			l := loader.New(loader.WithQuantization(c), loader.WithLayout(o.Layout),
				loader.WithProgress(func(u progress.Update) { bar.set(u.BytesDone, u.BytesTotal) }))
			plan, err := l.Plan(ctx, args[0])
			if err != nil {
				return err
			}
			if err := model.Exportable(plan); err != nil {
				return err
			}
			bar = a.bytesBar("loading " + args[0])
			m, err := l.Load(ctx, args[0])
			bar.done(err)
			if err != nil {
				return err
			}
			defer m.Close()
			if err := m.Export(ctx, out); err != nil {
				return err
			}
			r := m.Report()
			result := struct {
				Out         string       `json:"out"`
				Scheme      string       `json:"scheme"`
				BytesRead   int64        `json:"bytes_read"`
				BytesPlaced int64        `json:"bytes_placed"`
				Seconds     float64      `json:"seconds"`
				Fallbacks   []shard.Note `json:"fallbacks"`
			}{out, plan.Options.Scheme, r.BytesRead, r.BytesPlaced, r.Seconds, m.Plan().Fallbacks}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s of %s, from %s\n", out, size.Format(r.BytesPlaced), plan.Options.Scheme, size.Format(r.BytesRead))
				return err
			})
		},
	}
	planFlags(cmd.Flags(), &o)
	q.register(cmd.Flags(), "to")
	cmd.Flags().StringVar(&out, "out", "", "the `FILE` to write, ending in .safetensors")
	return cmd
}
