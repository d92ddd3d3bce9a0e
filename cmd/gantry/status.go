package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/spf13/cobra"
)

// withClient connects to the cluster of --server and calls f.
func (a *app) withClient(f func(*cluster.Client) error) error {
	if a.server == "" {
		return usagef("this command talks to a running cluster: give --server nats://HOST:PORT (gantry up starts one)")
	}
	nc, err := a.security.Connect(a.server)
	if err != nil {
		return err
	}
	defer nc.Close()
	return f(cluster.NewClient(nc))
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status [JOB]",
		Short:   "Show how far a job is (the newest, without JOB)",
		Example: "  gantry status --server nats://127.0.0.1:4222 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withJob(cmd.Context(), args, func(_ *cluster.Client, j messages.Job) error {
				return a.print(j, func(w io.Writer) error { return writeReport(w, j) })
			})
		},
	}
}

// withJob runs f with the job that args name, the newest without one.
func (a *app) withJob(ctx context.Context, args []string, f func(*cluster.Client, messages.Job) error) error {
	return a.withClient(func(c *cluster.Client) error {
		id := ""
		if len(args) == 1 {
			id = args[0]
		}
		j, err := c.Status(ctx, id)
		if err != nil {
			return err
		}
		return f(c, j)
	})
}

func (a *app) jobsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "jobs",
		Short:   "List the cluster's jobs, newest first",
		Example: "  gantry jobs --server nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *cluster.Client) error {
				jobs, err := c.Jobs(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(nonNil(jobs), func(w io.Writer) error {
					return table(w, "JOB\tMODEL\tSTATE\tDONE\tREAD\tWHY", len(jobs), func(tw io.Writer, i int) {
						j := jobs[i]
						fmt.Fprintf(tw, "%s\t%s\t%s\t%.0f %%\t%s\t%s\n", j.Job, j.Model, j.State, 100*j.Overall, size.Format(j.BytesRead), j.Why)
					})
				})
			})
		},
	}
}

func (a *app) workersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "workers",
		Short:   "List the cluster's workers and their devices",
		Example: "  gantry workers --server nats://127.0.0.1:4222 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *cluster.Client) error {
				workers, err := c.Workers(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(nonNil(workers), func(w io.Writer) error {
					return table(w, "WORKER\tDEVICE\tFREE\tTOTAL\tADDRESS\tVERSION", len(workers), func(tw io.Writer, i int) {
						k := workers[i]
						for _, d := range k.Devices {
							fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, d.ID, size.Format(d.Free), size.Format(d.Total), k.Address, k.Version)
						}
					})
				})
			})
		},
	}
}

func (a *app) modelsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "models",
		Short:   "List the models that are resident in the cluster",
		Example: "  gantry models --server nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *cluster.Client) error {
				models, err := c.Models(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(nonNil(models), func(w io.Writer) error {
					return table(w, "MODEL\tSTATE\tSCHEME\tBYTES\tRANKS\tSINCE\tFROM\tWHY", len(models), func(tw io.Writer, i int) {
						m := models[i]
						fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", m.Name, cmp.Or(m.State, messages.StateReady), m.Scheme, size.Format(m.Bytes),
							len(m.Ranks), m.Since.Format("2006-01-02 15:04:05"), m.URI, m.Why)
					})
				})
			})
		},
	}
}

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cancel JOB",
		Short:   "Stop a job and free what it has placed",
		Example: "  gantry cancel 5f0c2a --server nats://127.0.0.1:4222",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *cluster.Client) error {
				j, err := c.Cancel(cmd.Context(), args[0], "gantry cancel")
				if err != nil {
					return err
				}
				return a.print(j, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "job %s is %s\n", j.Job, j.State)
					return err
				})
			})
		},
	}
}

func (a *app) unloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "unload MODEL",
		Short:   "Free a resident model",
		Example: "  gantry unload llama-3.2-1b --server nats://127.0.0.1:4222",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *cluster.Client) error {
				m, err := c.Unload(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(m, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "model %s is unloaded, %s freed\n", m.Name, size.Format(m.Bytes))
					return err
				})
			})
		},
	}
}

// table writes a header and n rows in aligned columns.
func table(w io.Writer, header string, n int, row func(tw io.Writer, i int)) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, header)
	for i := range n {
		row(tw, i)
	}
	return tw.Flush()
}

// nonNil makes an empty list of a nil one, so that JSON says [] and not null.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
