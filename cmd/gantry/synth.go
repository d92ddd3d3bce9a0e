package main

import (
	"fmt"
	"io"
	"os"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/spf13/cobra"
)

// dtypeNames are the element types as --dtype spells them.
var dtypeNames = map[string]dtype.Type{
	"f32": dtype.F32, "float32": dtype.F32, "f16": dtype.F16, "float16": dtype.F16, "bf16": dtype.BF16, "bfloat16": dtype.BF16,
}

func (a *app) synthCommand() *cobra.Command {
	bytes := size.Bytes(1 << 30)
	o := synth.Options{}
	var typeName, config string
	cmd := &cobra.Command{
		Use:   "synth DIR",
		Short: "Write a checkpoint shaped and distributed like a real one",
		Long: `Write a deterministic checkpoint into the folder DIR: Hugging Face names,
config.json, shards and index, weights distributed like trained ones. The same
seed and size give the same bytes on every machine.`,
		Example: "  gantry synth ./model --arch llama --size 1GiB --dtype bf16 --shards 4",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, ok := dtypeNames[typeName]
			if !ok {
				return usagef("--dtype %q: want bf16, f16 or f32", typeName)
			}
			o.DType, o.Bytes = t, int64(bytes)
			if config != "" {
				data, err := os.ReadFile(config)
				if err != nil {
					return usagef("--config: %v", err)
				}
				o.Config = data
			}
			bar := a.bytesBar("writing " + args[0])
			o.Progress = bar.set
			res, err := synth.Write(cmd.Context(), args[0], o)
			bar.done(err)
			if err != nil {
				return err
			}
			return a.print(res, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s, %d parameters, %s in %s\n", args[0], o.Arch, res.Parameters, size.Format(res.Bytes), plural(len(res.Files), "file"))
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Arch, "arch", "llama", "architecture: llama")
	flags.Var(&bytes, "size", "bytes of weights, about")
	flags.StringVar(&typeName, "dtype", "bf16", "element type: bf16, f16, f32")
	flags.IntVar(&o.Shards, "shards", 0, "number of files (0: one for each 4 GiB)")
	flags.Uint64Var(&o.Seed, "seed", 1, "seed of the weights")
	flags.StringVar(&config, "config", "", "take the dimensions from this config.json instead of --size")
	return cmd
}
