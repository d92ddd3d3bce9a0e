package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/verify"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// verification is what `verify --json` prints.
type verification struct {
	URI     string  `json:"uri"`
	Files   int     `json:"files"`
	Tensors int     `json:"tensors"`
	Seconds float64 `json:"seconds"`
	Written string  `json:"written,omitempty"` // the file of --write
	*verify.Report
}

func (a *app) verifyCommand() *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use:   "verify MODEL",
		Short: "Read every byte of a checkpoint and check digests and values",
		Long: `Read every byte of a checkpoint once and say what is wrong with it: bytes that
differ from gantry.digests.json beside it or from the SHA-256 that a hub gives,
and tensors with NaN or infinite values. With --write it writes what it has read
as the new gantry.digests.json, which loads then check against.`,
		Example: "  gantry verify ./model\n  gantry verify ./model --write",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if write && source.Remote(args[0]) {
				return usagef("--write writes beside local checkpoints, and %s is remote", redacted(args[0]))
			}
			return a.verify(cmd.Context(), args[0], write)
		},
	}
	cmd.Flags().BoolVar(&write, "write", false, "write gantry.digests.json beside the checkpoint, replacing what it says of these files")
	return cmd
}

// redacted is a URI without what may be a secret.
func redacted(uri string) string {
	head, _, _ := strings.Cut(uri, "?")
	return head
}

func (a *app) verify(ctx context.Context, uri string, write bool) (err error) {
	begun := time.Now()
	src, err := source.Open(ctx, uri, source.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	ix, err := checkpoint.Open(ctx, src)
	if err != nil {
		return err
	}
	var set *digests.Set
	if !write { // what is to be replaced need not be readable
		if set, err = digests.Read(ctx, src); err != nil {
			return err
		}
	}
	bar := a.bytesBar("verifying " + redacted(uri))
	report, err := verify.Checkpoint(ctx, src, ix, set, bar.set)
	bar.done(err)
	if err != nil {
		return err
	}
	v := verification{URI: src.URI(), Files: len(ix.Files), Tensors: len(ix.Tensors), Report: report}
	if write {
		dir := digests.Dir(strings.TrimPrefix(uri, "file://"))
		if err := report.New.Write(dir); err != nil {
			return err
		}
		v.Written, report.Digests = digests.Name, "written"
	}
	v.Seconds = time.Since(begun).Seconds()
	if err := a.print(v, v.write); err != nil {
		return err
	}
	return v.outcome()
}

func (v verification) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "read\t%s in %s, %s\n", size.Format(v.Bytes), plural(v.Files, "file"), plural(v.Tensors, "tensor"))
	fmt.Fprintf(tw, "digests\t%s\n", map[string]string{
		"matched": "all bytes match " + digests.Name, "none": "there is no " + digests.Name + ": verify --write writes one",
		"partial": digests.Name + " leaves files out", "differ": "bytes differ from " + digests.Name, "written": "written to " + digests.Name,
	}[v.Digests])
	if n := len(v.SHA256); n > 0 {
		fmt.Fprintf(tw, "SHA-256\t%s as the hub says\n", plural(n, "file"))
	}
	fmt.Fprintf(tw, "values\t%d NaN, %d infinite in %s of floating-point tensors\n", v.NaN, v.Inf, size.Format(v.Checked))
	fmt.Fprintf(tw, "took\t%.2f s\n", v.Seconds)
	for _, p := range v.Problems {
		fmt.Fprintf(tw, "problem\t%s\n", problemLine(p))
	}
	return tw.Flush()
}

func problemLine(p verify.Problem) string {
	tensor := ""
	if p.Tensor != "" {
		tensor = fmt.Sprintf(" tensor %s", printable(p.Tensor))
	}
	return fmt.Sprintf("%s%s bytes [%d, %d): %s", p.File, tensor, p.Offset, p.Offset+p.Length, p.What)
}

// outcome is the error that the report stands for: the first problem, and how
// many there are.
func (v verification) outcome() error {
	if len(v.Problems) == 0 {
		return nil
	}
	p := v.Problems[0]
	e := &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "verify", File: p.File, Tensor: p.Tensor, Offset: p.Offset, Length: p.Length, Err: errors.New(p.What)}
	if v.Digests == "differ" {
		e.Class, e.Hint = recovery.DigestMismatch, "restore the file; or, if it was changed on purpose, run gantry verify --write"
	}
	if n := len(v.Problems) - 1; n > 0 {
		e.Err = fmt.Errorf("%s; and %s more", p.What, plural(n, "problem"))
	}
	return e
}
