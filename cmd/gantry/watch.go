package main

import (
	"context"
	"encoding/json"
	"io"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/spf13/cobra"
)

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch [JOB]",
		Short: "Show a job's progress until it ends (the newest, without JOB)",
		Long: `Show a job's progress until it ends, also one that somebody else submitted or
that has ended already. The exit code is that of the load. With --json each
thing that is heard is one JSON object on a line: {"job": …}, {"progress": …},
{"event": …} or {"nats": "away" or "back"}. An interrupt ends the watching, not the job.`,
		Example: "  gantry watch --server nats://127.0.0.1:4222",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withJob(cmd.Context(), args, func(c *cluster.Client, j messages.Job) error {
				return a.watch(cmd.Context(), c, j.Job)
			})
		},
	}
}

// watch shows what is heard of a job until it ends.
func (a *app) watch(ctx context.Context, client *cluster.Client, id string) error {
	notices, err := client.WatchJob(ctx, id)
	if err != nil {
		return err
	}
	var v view = &jsonView{json.NewEncoder(a.stdout)}
	if !a.json {
		v = a.newView()
	}
	defer v.close()
	for n := range notices {
		if n.Err != nil {
			return n.Err
		}
		show(v, n)
		if n.Job == nil || !n.Job.State.Final() {
			continue
		}
		if !a.json {
			if err := a.print(*n.Job, func(w io.Writer) error { return writeReport(w, *n.Job) }); err != nil {
				return err
			}
		}
		return outcome(*n.Job)
	}
	return recovery.Errorf(recovery.Cancelled, "job %s goes on: interrupted before its end", id)
}

// show passes on one thing that was heard.
func show(v view, n cluster.JobNotice) {
	switch {
	case n.Event != nil:
		v.event(*n.Event)
	case n.Progress != nil:
		v.update(*n.Progress)
	case n.Job != nil:
		v.job(*n.Job)
	case n.Contact != "":
		v.contact(n.Contact)
	}
}

// jsonView writes one object a line.
type jsonView struct{ out *json.Encoder }

func (v *jsonView) job(j messages.Job)        { v.write("job", j) }
func (v *jsonView) update(u progress.Update)  { v.write("progress", u) }
func (v *jsonView) event(e progress.Event)    { v.write("event", e) }
func (v *jsonView) contact(c cluster.Contact) { v.write("nats", c) }
func (v *jsonView) close()                    {}

// write cannot report an error: where stdout is closed, the next signal or the
// job's end ends the command.
func (v *jsonView) write(kind string, what any) { _ = v.out.Encode(map[string]any{kind: what}) }
