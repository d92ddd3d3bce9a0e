package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/spf13/cobra"
)

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export MODEL PATH",
		Short: "Write a resident model to a folder, as safetensors, or to a .gguf file",
		Long: `Write a model that is resident in a cluster: to a folder, as one safetensors file
with its config.json and the files of its tokenizer, or to a file that ends in
.gguf or .safetensors. The workers write it, so PATH must mean the same folder
to all that hold ranks, and lie in an --export-root of theirs. The model stays.`,
		Example: "  gantry export llama /mnt/models/llama-int8 --server nats://127.0.0.1:4222",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *cluster.Client) error {
				x, err := a.exportModel(cmd.Context(), c, args[0], args[1])
				if err != nil {
					return err
				}
				return a.print(x, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "model %s is written to %s after %.2f s\n", x.Model, x.Path, x.Seconds)
					return err
				})
			})
		},
	}
}

// exportPoll is how often a cluster is asked how far an export is.
const exportPoll = 200 * time.Millisecond

// exportModel has a model exported, waits for the end, and shows warnings. With
// an error it returns how far the export was when last seen; its id is empty
// where no cluster took it on.
func (a *app) exportModel(ctx context.Context, c *cluster.Client, name, path string) (x messages.Export, err error) {
	abs, err := filepath.Abs(path) // a worker has another working folder
	if err != nil {
		return x, err
	}
	q := messages.ExportRequest{Export: newJobID(), Name: name, Path: abs}
	for {
		now, err := c.Export(ctx, q)
		if err != nil {
			return x, err
		}
		x = now
		switch x.State {
		case messages.StateReady:
			for _, w := range x.Warnings {
				fmt.Fprintln(a.stderr, "gantry: warning:", w)
			}
			return x, nil
		case messages.StateFailed:
			return x, &recovery.Error{Class: x.Class, Err: errors.New(x.Why)}
		}
		select {
		case <-time.After(exportPoll):
		case <-ctx.Done():
			return x, recovery.Errorf(recovery.Cancelled, "interrupted: the workers go on writing %s", abs)
		}
	}
}
