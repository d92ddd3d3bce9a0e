package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/source"
	"github.com/spf13/cobra"
)

// inspection is what `inspect --json` prints.
type inspection struct {
	Format       string                  `json:"format"`
	Architecture string                  `json:"architecture"` // by names and config.json; "" where neither tells
	Dimensions   checkpoint.Architecture `json:"dimensions"`
	Parameters   int64                   `json:"parameters"`
	Bytes        int64                   `json:"bytes"` // of tensors
	Quantized    bool                    `json:"quantized"`
	About        checkpoint.About        `json:"about"`
	TPPlan       map[string]string       `json:"tp_plan,omitempty"`
	DTypes       map[string]int64        `json:"dtypes"` // bytes of each element type
	Metadata     map[string]string       `json:"metadata"`
	Files        []source.File           `json:"files"`
	SideFiles    []source.File           `json:"side_files"`
	Require      require.Requirements    `json:"require,omitzero"`
	BytesRead    int64                   `json:"bytes_read"` // to know all this
	Tensors      []inspectedTensor       `json:"tensors"`
}

type inspectedTensor struct {
	Name   string     `json:"name"`
	DType  dtype.Type `json:"dtype"`
	Shape  []int64    `json:"shape"`
	File   string     `json:"file"`
	Offset int64      `json:"offset"`
	Bytes  int64      `json:"bytes"`
}

func (a *app) inspectCommand() *cobra.Command {
	var tensors bool
	cmd := &cobra.Command{
		Use:     "inspect MODEL",
		Short:   "Show what a checkpoint holds, from its headers alone",
		Example: "  gantry inspect ./model --tensors\n  gantry inspect model.gguf --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var read source.Counter
			ix, err := openIndex(cmd.Context(), args[0], &read)
			if err != nil {
				return err
			}
			in := inspect(ix)
			in.BytesRead = read.Bytes.Load()
			return a.print(in, func(w io.Writer) error { return in.write(w, tensors) })
		},
	}
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	return cmd
}

// openIndex reads the headers of the checkpoint at uri, and counts what it
// reads.
func openIndex(ctx context.Context, uri string, read *source.Counter) (*checkpoint.Index, error) {
	src, err := source.Open(ctx, uri, source.Options{})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return checkpoint.Open(ctx, source.Count(src, read))
}

func inspect(ix *checkpoint.Index) inspection {
	in := inspection{
		Format: ix.Format, Architecture: ix.Architecture.Name, Dimensions: ix.Architecture, Parameters: ix.Architecture.Parameters,
		About: ix.About(), TPPlan: ix.TPPlan, DTypes: map[string]int64{}, Metadata: ix.Metadata,
		Files: nonNil(ix.Files), SideFiles: nonNil(ix.SideFiles), Require: ix.Require, Tensors: []inspectedTensor{},
	}
	in.Architecture = cmp.Or(in.Architecture, in.About.ModelType)
	in.Quantized = in.About.Quantization != nil
	if in.Metadata == nil {
		in.Metadata = map[string]string{}
	}
	for _, t := range ix.Tensors {
		in.Bytes += t.Bytes
		in.DTypes[t.DType.String()] += t.Bytes
		in.Tensors = append(in.Tensors, inspectedTensor{t.Name, t.DType, nonNil(t.Shape), ix.Files[t.File].Name, t.Offset, t.Bytes})
	}
	return in
}

func (in inspection) write(w io.Writer, tensors bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	format := in.Format
	if v := in.About.FormatVersion; v != "" {
		format += " version " + printable(v)
	}
	fmt.Fprintf(tw, "format\t%s in %s\n", format, plural(len(in.Files), "file"))
	fmt.Fprintf(tw, "architecture\t%s\n", printable(cmp.Or(in.Architecture, "unknown")))
	if f := in.About.Framework; f != "" {
		fmt.Fprintf(tw, "framework\t%s\n", printable(strings.TrimSpace(f+" "+in.About.FrameworkVersion)))
	}
	if v := in.About.Version; v != "" {
		fmt.Fprintf(tw, "version\t%s\n", printable(v))
	}
	if c := in.Dimensions; c.Layers > 0 {
		fmt.Fprintf(tw, "dimensions\t%d layers, hidden %d, intermediate %d, %d heads, %d kv heads, vocabulary %d\n",
			c.Layers, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.Vocab)
	}
	if n := in.Dimensions.Context; n > 0 {
		fmt.Fprintf(tw, "context\t%d tokens\n", n)
	}
	if kind := in.Metadata["tokenizer.ggml.model"]; kind != "" {
		fmt.Fprintf(tw, "tokenizer\t%s\n", printable(kind))
	}
	fmt.Fprintf(tw, "parameters\t%d\n", in.Parameters)
	fmt.Fprintf(tw, "bytes\t%s\n", size.Format(in.Bytes))
	var types []string
	for name, n := range in.DTypes {
		types = append(types, fmt.Sprintf("%s %s", name, size.Format(n)))
	}
	slices.Sort(types)
	fmt.Fprintf(tw, "element types\t%s\n", strings.Join(types, ", "))
	if in.About.DType != "" {
		fmt.Fprintf(tw, "computes in\t%s\n", printable(in.About.DType))
	}
	if tied := in.About.TiedEmbeddings; tied != nil {
		fmt.Fprintf(tw, "tied embeddings\t%v\n", *tied)
	}
	how := ""
	if q := in.About.Quantization; q != nil {
		how = ", " + printable(q.String())
	}
	fmt.Fprintf(tw, "quantized\t%v%s\n", in.Quantized, how)
	fmt.Fprintf(tw, "tensors\t%d\n", len(in.Tensors))
	fmt.Fprintf(tw, "read\t%s\n", size.Format(in.BytesRead))
	if len(in.TPPlan) > 0 {
		fmt.Fprintf(tw, "tensor parallel\tplan of %s in config.json\n", plural(len(in.TPPlan), "module"))
	}
	if !in.Require.Empty() {
		fmt.Fprintf(tw, "requires\t%s\n", in.Require)
	}
	if len(in.SideFiles) > 0 {
		var names []string
		for _, f := range in.SideFiles {
			names = append(names, printable(f.Name))
		}
		fmt.Fprintf(tw, "side files\t%s\n", strings.Join(names, ", "))
	}
	if err := tw.Flush(); err != nil || !tensors {
		return err
	}
	fmt.Fprintln(w)
	return table(w, "TENSOR\tDTYPE\tSHAPE\tFILE\tOFFSET\tBYTES", len(in.Tensors), func(tw io.Writer, i int) {
		t := in.Tensors[i]
		fmt.Fprintf(tw, "%s\t%s\t%v\t%s\t%d\t%d\n", printable(t.Name), t.DType, t.Shape, t.File, t.Offset, t.Bytes)
	})
}

// printable is a name without what would move a terminal's cursor: a name is
// data from a file.
func printable(name string) string {
	if q := fmt.Sprintf("%q", name); q[1:len(q)-1] != name {
		return q
	}
	return name
}
