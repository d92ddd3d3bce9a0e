package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// writeReport writes a job as a table for people: the same facts as --json.
func writeReport(w io.Writer, j messages.Job) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("job", "%s", j.Job)
	row("model", "%s from %s", j.Model, j.URI)
	if j.State.Final() {
		row("state", "%s after %.2f s", j.State, j.Seconds)
	} else {
		row("state", "%s, %s, %.0f %%", j.State, j.Stage, 100*j.Overall)
	}
	if j.Why != "" {
		row("why", "%s", j.Why)
	}
	if j.Counters.RanksTotal > 0 {
		row("read", "%s in %s, read amplification %.2f, retries %d", size.Format(j.BytesRead), plural(j.Counters.ChunksTotal, "chunk"), j.ReadAmplification, j.Retries)
		row("placed", "%s as %s", size.Format(j.BytesPlaced), scheme(j))
		row("staging", "%s at most", size.Format(j.PeakStagingBytes))
		row("source", "%s", verified(j.SourceVerified))
	}
	if j.Validation.State != "" {
		row("validation", "%s", validation(j.Validation))
	}
	if n := j.Validation.NonFinite; n != nil {
		row("not finite", "stored %s, placed %s", counts(n.Stored), counts(n.Placed))
	}
	if len(j.Stages) > 0 {
		parts := make([]string, len(j.Stages))
		for i, s := range j.Stages {
			parts[i] = fmt.Sprintf("%s %.2f s", s.Stage, s.Seconds)
		}
		row("stages", "%s", strings.Join(parts, ", "))
	}
	if r := loadRate(j); j.State == messages.StateReady && r > 0 {
		row("rate", "%s/s while loading", size.Format(int64(r)))
	}
	if n := len(j.Fallbacks); n > 0 {
		row("fallbacks", "%s: %s is kept otherwise (%s)", plural(n, "tensor"), j.Fallbacks[0].Tensor, j.Fallbacks[0].Reason)
	}
	for _, s := range j.Warnings {
		row("warning", "%s", s)
	}
	if err := tw.Flush(); err != nil || len(j.Ranks) == 0 {
		return err
	}
	fmt.Fprintln(w)
	return table(w, "RANK\tWORKER\tDEVICE\tBYTES\tDONE\tDIGEST", len(j.Ranks), func(tw io.Writer, i int) {
		r := j.Ranks[i]
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%.0f %%\t%s\n", r.Rank, r.Worker, r.Device, size.Format(r.Bytes), percent(r.BytesDone, r.BytesTotal), r.Digest)
	})
}

// loadRate is how many stored bytes were read in each second of the load
// phase, which ends when they are placed. What was read before, while arenas
// were still made, does not count.
func loadRate(j messages.Job) float64 {
	var bytes int64
	var seconds float64
	for _, t := range j.Stages {
		if t.Stage == progress.LoadingWeights || t.Stage == progress.Processing {
			bytes += t.BytesRead
			seconds += t.Seconds
		}
	}
	if seconds == 0 {
		return 0
	}
	return float64(bytes) / seconds
}

func scheme(j messages.Job) string {
	if j.Options.Scheme == "" {
		return "stored (no quantization)"
	}
	return j.Options.Scheme
}

// counts writes how many values were no finite numbers.
func counts(n dtype.NonFinite) string {
	if n == (dtype.NonFinite{}) {
		return "none"
	}
	return fmt.Sprintf("%d NaN and %d Inf", n.NaN, n.Inf)
}

func verified(yes bool) string {
	if yes {
		return "checked against its digests"
	}
	return "has no digests: checked by identity and length"
}

func validation(v messages.Validation) string {
	if v.State == "skipped" {
		return "not run: " + v.Reason
	}
	var worst float64
	methods := map[string]bool{}
	for _, r := range v.Ranks {
		worst = max(worst, r.MaxError)
		methods[r.Method] = true
	}
	var how []string
	for _, m := range []string{"wrapped", "decoded"} {
		if methods[m] {
			how = append(how, m)
		}
	}
	s := fmt.Sprintf("%s: x·Wᵀ of %s in %s (%s), largest error %.1e", v.State, plural(len(v.Ranks), "rank"), v.Runtime, strings.Join(how, ", "), worst)
	if v.Reason != "" {
		s += ": " + v.Reason
	}
	return s
}

// percent is done/total in percent; nothing to do is done.
func percent(done, total int64) float64 {
	if total <= 0 {
		return 100
	}
	return 100 * float64(done) / float64(total)
}
