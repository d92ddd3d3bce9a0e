package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/shard"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// planFlags are the flags that shape a plan, shared by plan, load and
// quantize.
func planFlags(flags *pflag.FlagSet, o *shard.Options) {
	flags.IntVar(&o.Layout.TP, "tp", 1, "tensor parallel: ranks that share each layer")
	flags.IntVar(&o.Layout.PP, "pp", 1, "pipeline parallel: ranks that share the layers")
	flags.IntVar(&o.Layout.EP, "ep", 1, "expert parallel: ranks that share the experts")
	flags.IntVar(&o.Layout.DP, "dp", 1, "data parallel: whole copies")
}

func (a *app) planCommand() *cobra.Command {
	var o shard.Options
	cmd := &cobra.Command{
		Use:     "plan MODEL",
		Short:   "Show what a load would do, without reading a weight",
		Example: "  gantry plan ./model --tp 4 --quant q8_0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ix, err := openIndex(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			p, err := shard.Build(ix, o)
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) error { return writePlan(w, p) })
		},
	}
	planFlags(cmd.Flags(), &o)
	cmd.Flags().StringVar(&o.Scheme, "quant", "none", "what weights become: "+schemeNames())
	return cmd
}

func writePlan(w io.Writer, p *shard.Plan) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "plan\t%s\n", p.Digest())
	fmt.Fprintf(tw, "layout\t%s\n", p.Options.Layout)
	fmt.Fprintf(tw, "scheme\t%s\n", p.Options.Scheme)
	fmt.Fprintf(tw, "read\t%s in %s, amplification %.2f\n", size.Format(p.ReadBytes), plural(len(p.Chunks), "chunk"), float64(p.ReadBytes)/float64(max(p.StoredBytes, 1)))
	fmt.Fprintf(tw, "place\t%s\n", size.Format(p.PlacedBytes))
	fmt.Fprintf(tw, "fallbacks\t%d\n", len(p.Fallbacks))
	for _, n := range p.Fallbacks {
		fmt.Fprintf(tw, "\t%s: %s\n", printable(n.Tensor), n.Reason)
	}
	fmt.Fprintf(tw, "straddles\t%d\n", len(p.Straddles))
	for _, n := range p.Straddles {
		fmt.Fprintf(tw, "\t%s: %s\n", printable(n.Tensor), n.Reason)
	}
	for _, s := range p.Warnings {
		fmt.Fprintf(tw, "warning\t%s\n", s)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return table(w, "RANK\tDP\tPP\tTP\tARENA\tTENSORS", len(p.Ranks), func(tw io.Writer, i int) {
		r := p.Ranks[i]
		fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t%s\t%d\n", r.Rank, r.DP, r.PP, r.TP, size.Format(r.ArenaBytes), len(r.Slices))
	})
}
