package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/loader"
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
		Short: "Load, join the ranks, and write the result as safetensors or GGUF",
		Long: `Load a checkpoint in this process with a scheme, join its ranks, and write the
result: as one .safetensors file with its config.json beside it, or as one
.gguf file that llama.cpp runs, with the tokenizer from tokenizer.json or
tokenizer.model. The parallel layout changes no byte. A scheme that the file's
format has no layout for is wrong usage.`,
		Example: `  gantry quantize ./model --to int8 --out ./model-int8/model.safetensors
  gantry quantize ./model --to q4_K --out ./model-q4_K.gguf`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" || q.scheme == "" && q.file == "" {
				return usagef("quantize needs --to SCHEME (or --quant-config FILE) and --out FILE")
			}
			c, err := q.config()
			if err != nil {
				return err
			}
			file, ok := containers[filepath.Ext(out)]
			if !ok {
				return usagef("--out %s: want a name that ends in .safetensors or .gguf", out)
			}
			ctx := cmd.Context()
			var bar *bytesBar
			newLoader := func(l shard.Layout) *loader.Loader {
				return loader.New(loader.WithQuantization(c), loader.WithLayout(l), loader.WithRules(o.Rules...), loader.WithPadVocab(o.PadVocab),
					loader.WithProgress(func(u progress.Update) { bar.set(u.BytesDone, u.BytesTotal) }))
			}
			// What the file will hold, and what to warn of, does not depend on the layout.
			plan, err := file.plan(&c.Overrides, func() (*shard.Plan, error) { return newLoader(shard.Layout{}).Plan(ctx, args[0]) })
			if err != nil {
				return err
			}
			bar = a.bytesBar("loading " + args[0])
			m, err := newLoader(o.Layout).Load(ctx, args[0])
			bar.done(err)
			if err != nil {
				return err
			}
			defer m.Close()
			warnings, err := file.write(ctx, m, out)
			if err != nil {
				return err
			}
			warnings = append(plan.Warnings, warnings...)
			for _, w := range warnings {
				fmt.Fprintln(a.stderr, "gantry: warning:", w)
			}
			r := m.Report()
			result := struct {
				Out         string       `json:"out"`
				Scheme      string       `json:"scheme"`
				BytesRead   int64        `json:"bytes_read"`
				BytesPlaced int64        `json:"bytes_placed"`
				Seconds     float64      `json:"seconds"`
				Fallbacks   []shard.Note `json:"fallbacks"`
				Warnings    []string     `json:"warnings"`
			}{out, plan.Options.Scheme, r.BytesRead, r.BytesPlaced, r.Seconds, m.Plan().Fallbacks, append([]string{}, warnings...)}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s of %s, from %s\n", out, size.Format(r.BytesPlaced), plan.Options.Scheme, size.Format(r.BytesRead))
				return err
			})
		},
	}
	planFlags(cmd.Flags(), &o)
	q.register(cmd.Flags(), "to")
	cmd.Flags().StringVar(&out, "out", "", "the `FILE` to write, ending in .safetensors or .gguf")
	return cmd
}
