package main

import "github.com/spf13/cobra"

func (a *app) swapCommand() *cobra.Command {
	f := loadFlags{staging: defaultStaging}
	cmd := &cobra.Command{
		Use:   "swap NAME MODEL",
		Short: "Load a checkpoint and let it take the place of the resident model NAME",
		Long: `Load a checkpoint into a running cluster, beside the resident model NAME, and
let it take that one's place when all of its ranks are ready: all of them at
once, in one write. Until then, and where the load fails or is cancelled, NAME
stays what it is. Both must fit; the old one is freed after the change.`,
		Example: `  gantry swap prod /models/llama-v2 --tp 4 --quant q8_0 --server nats://127.0.0.1:4222`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.server == "" {
				return usagef("swap talks to a running cluster: give --server nats://HOST:PORT")
			}
			f.request.Name, f.request.URI, f.request.Replace = args[0], args[1], true
			return a.load(cmd.Context(), f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}
