package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/shard/rulesfile"
	"github.com/gantry-ml/gantry/source"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// planFlags are the flags that shape a plan, shared by plan, load and
// quantize.
func planFlags(flags *pflag.FlagSet, o *shard.Options) {
	degreeVar(flags, &o.Layout.TP, "tp", "tensor parallel: ranks that share each layer")
	degreeVar(flags, &o.Layout.PP, "pp", "pipeline parallel: ranks that share the layers")
	degreeVar(flags, &o.Layout.EP, "ep", "expert parallel: ranks that share the experts")
	degreeVar(flags, &o.Layout.DP, "dp", "data parallel: whole copies")
	flags.Var(rulesFlag{&o.Rules}, "rules", "YAML or JSON `FILE` that says how modules are divided which no built-in rule knows, by patterns of their names")
	flags.Int64Var(&o.PadVocab, "pad-vocab", 0, "fill embedding and head up with zeros to a multiple of `N` rows before they are divided, as vLLM does: 64 without =N")
	flags.Lookup("pad-vocab").NoOptDefVal = "64"
}

// degreeVar is a flag of a layout's degree, 1 unless it is given.
func degreeVar(flags *pflag.FlagSet, n *int, name, usage string) {
	*n = 1
	flags.Var(degreeFlag{n}, name, usage)
}

type degreeFlag struct{ n *int }

func (f degreeFlag) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > shard.MaxDegree {
		return fmt.Errorf("want 1 to %d", shard.MaxDegree)
	}
	*f.n = n
	return nil
}

func (f degreeFlag) String() string { return strconv.Itoa(*f.n) }

func (degreeFlag) Type() string { return "int" }

// rulesFlag is a file of layout rules, read when the flag is: what is wrong in
// it is wrong usage.
type rulesFlag struct{ rules *[]shard.ModuleRule }

func (f rulesFlag) Set(path string) error {
	rules, err := rulesfile.Read(path)
	*f.rules = append(*f.rules, rules...)
	return err
}

func (rulesFlag) String() string { return "" }

func (rulesFlag) Type() string { return "FILE" }

func (a *app) planCommand() *cobra.Command {
	var o shard.Options
	var q quantFlags
	var required requireFlags
	var tensors bool
	cmd := &cobra.Command{
		Use:   "plan MODEL",
		Short: "Show what a load would do, without reading a weight",
		Long: `Show what a load would do: what tensors become and how many bytes that saves,
ranks and their bytes, chunks, and what will not be as one might expect. With
--tensors each tensor is listed with how it is cut, what it becomes and why. Only
headers are read. --json is the plan itself.

A pattern of --quant-override is a glob over tensor names: * is any run of
characters, dots too, ? one character, [0-3] one of several, {q,k} one of these.
It matches a whole name or that of a module that holds the tensor: lm_head
matches lm_head.weight, and model.layers.1 all of that layer.

--rules FILE lists how modules are divided which no built-in rule knows, by the
same patterns: rules: ["*.wide=colwise", {pattern: words, rule: vocab, place:
embedding}].`,
		Example: `  gantry plan ./model --tp 4 --quant q8_0
  gantry plan ./mixtral --tp 2 --ep 4
  gantry plan ./model --tp 2 --rules rules.yaml
  gantry plan ./model --quant q4_K_M --quant-override '*.{gate,up}_proj=q3_K' --tensors`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := q.config()
			if err != nil {
				return err
			}
			if err := apply(c, &o); err != nil {
				return err
			}
			needs, err := required.parse()
			if err == nil {
				err = checkHere(needs)
			}
			if err != nil {
				return err
			}
			ix, err := openIndex(cmd.Context(), args[0], new(source.Counter))
			if err != nil {
				return err
			}
			p, err := shard.Build(ix, o)
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) error { return writePlan(w, p, ix.Require, tensors) })
		},
	}
	planFlags(cmd.Flags(), &o)
	required.register(cmd.Flags())
	q.register(cmd.Flags(), "quant")
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list each tensor, how it is cut, what it becomes and why")
	return cmd
}

func writePlan(w io.Writer, p *shard.Plan, needs require.Requirements, tensors bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "plan\t%s\n", p.Digest())
	fmt.Fprintf(tw, "layout\t%s\n", p.Options.Layout)
	fmt.Fprintf(tw, "scheme\t%s\n", p.Options.Scheme)
	fmt.Fprintf(tw, "read\t%s in %s, amplification %.2f\n", size.Format(p.ReadBytes), plural(len(p.Chunks), "chunk"), float64(p.ReadBytes)/float64(max(p.StoredBytes, 1)))
	fmt.Fprintf(tw, "place\t%s\n", size.Format(p.PlacedBytes))
	if !needs.Empty() {
		fmt.Fprintf(tw, "requires\t%s\n", needs)
	}
	writeNotes(tw, "fallbacks", p.Fallbacks)
	writeNotes(tw, "straddles", p.Straddles)
	for _, s := range p.Warnings {
		fmt.Fprintf(tw, "warning\t%s\n", s)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if err := writeBecomes(w, p); err != nil {
		return err
	}
	if tensors {
		if err := writeTensors(w, p); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	return table(w, "RANK\tDP\tPP\tEP\tTP\tARENA\tTENSORS", len(p.Ranks), func(tw io.Writer, i int) {
		r := p.Ranks[i]
		fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t%d\t%s\t%d\n", r.Rank, r.DP, r.PP, r.EP, r.TP, size.Format(r.ArenaBytes), r.Tensors())
	})
}
