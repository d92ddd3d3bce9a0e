package main

import (
	"fmt"
	"io"
	"time"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/vbauerster/mpb/v8"
)

// view shows a load on stderr while it goes on. One goroutine calls it.
type view interface {
	job(messages.Job)
	update(progress.Update)
	event(progress.Event)
	contact(cluster.Contact)
	close()
}

// newView returns bars for a terminal and lines for anything else.
func (a *app) newView() view {
	if t := a.terminal(); t != nil {
		return &barView{pool: mpb.New(mpb.WithOutput(t), mpb.WithWidth(40))}
	}
	return &lineView{w: a.stderr}
}

// barView has a bar for the whole job and one for each rank.
type barView struct {
	pool  *mpb.Progress
	total *mpb.Bar
	ranks []*mpb.Bar
}

func (v *barView) job(j messages.Job) {
	if j.Counters.RanksTotal == 0 {
		return
	}
	if v.total == nil {
		v.total = newBar(v.pool, "read  ", j.Counters.BytesToRead)
		for _, r := range j.Ranks {
			v.ranks = append(v.ranks, newBar(v.pool, fmt.Sprintf("rank %d", r.Rank), r.BytesTotal))
		}
	}
	v.total.SetCurrent(j.Counters.BytesRead)
	for i, r := range j.Ranks {
		v.ranks[i].SetCurrent(r.BytesDone)
	}
}

func (v *barView) update(progress.Update) {}

func (v *barView) event(e progress.Event) {
	if noteworthy(e.Kind) {
		fmt.Fprintf(v.pool, "%s: %s\n", e.Kind, e.Reason)
	}
}

func (v *barView) contact(c cluster.Contact) { fmt.Fprintln(v.pool, contactLine(c)) }

func (v *barView) close() {
	for _, b := range append(v.ranks, v.total) {
		if b != nil && !b.Completed() {
			b.Abort(false)
		}
	}
	v.pool.Wait()
}

// lineView writes a line at each stage change, one a second in between, and
// one for each event that is not the usual course.
type lineView struct {
	w     io.Writer
	stage progress.Stage
	last  time.Time
}

func (v *lineView) job(j messages.Job) {
	if j.Stage == v.stage && time.Since(v.last) < time.Second {
		return
	}
	v.stage, v.last = j.Stage, time.Now()
	fmt.Fprintf(v.w, "%-14s %3.0f %%  %s of %s\n", j.Stage, 100*j.Overall, size.Format(j.Counters.BytesRead), size.Format(j.Counters.BytesToRead))
}

func (v *lineView) update(progress.Update) {}

func (v *lineView) event(e progress.Event) {
	if noteworthy(e.Kind) {
		fmt.Fprintf(v.w, "%s: %s\n", e.Kind, e.Reason)
	}
}

func (v *lineView) contact(c cluster.Contact) { fmt.Fprintln(v.w, contactLine(c)) }

func (v *lineView) close() {}

// contactLine says that NATS is away or back.
func contactLine(c cluster.Contact) string {
	if c == cluster.NATSAway {
		return fmt.Sprintf("NATS is away, waiting for it (%s at most)", cluster.AwayLimit)
	}
	return "NATS is back"
}

// noteworthy events are shown as they happen; the others are the usual
// course, which the bars and the report tell.
func noteworthy(k progress.Kind) bool {
	switch k {
	case progress.ChunkRetry, progress.ChunkFailed, progress.WorkerLost, progress.WorkerJoined, progress.RankMoved, progress.CoordinatorChanged:
		return true
	}
	return false
}
