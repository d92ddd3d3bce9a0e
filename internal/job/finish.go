package job

import (
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// checkReady ends the job when every rank is sealed.
func (j *Job) checkReady() {
	if j.sealed < len(j.ranks) || j.over() {
		return
	}
	j.end = Ready
	j.emit(progress.ReadyEvent, "", -1, -1, "%d ranks sealed, %s placed", j.sealed, size(j.counters.BytesPlaced))
	j.do(End{State: Ready})
}

// fail ends the job by an error.
func (j *Job) fail(err error) {
	if !j.over() {
		j.stop(Failed, progress.Failed, err)
	}
}

func (j *Job) cancel(reason string) {
	if j.over() {
		return
	}
	if reason == "" {
		reason = "cancelled"
	}
	j.stop(Cancelled, progress.Cancelled, recovery.Errorf(recovery.Cancelled, "%s", reason))
}

// stop takes everything back.
func (j *Job) stop(s Status, k Kind, err error) {
	j.end, j.err = s, err
	for _, w := range j.workers {
		for len(w.flying) > 0 {
			f := w.flying[len(w.flying)-1]
			j.do(Revoke{Ref: f.ref()})
			j.land(f)
		}
	}
	for i := range j.ranks {
		if j.ranks[i].home != nil {
			j.do(Free{Hold: j.ranks[i].hold})
		}
	}
	j.emit(k, "", -1, -1, "%v", err)
	j.do(End{State: s, Err: err})
}

// late answers an arena that nobody wants any more.
func (j *Job) late(e Event) {
	if p, ok := e.(Placed); ok && (j.held(p.Hold) == nil || j.end == Failed || j.end == Cancelled) {
		j.do(Free(p))
	}
}

func (j *Job) do(c Command) { j.out = append(j.out, c) }

func (j *Job) emit(k Kind, worker string, rank, chunk int, format string, args ...any) {
	j.do(Emit{Kind: k, Reason: fmt.Sprintf(format, args...), Worker: worker, Rank: rank, Chunk: chunk})
}

// orUnknown stands in for an error that a message left out.
func orUnknown(err error) error {
	if err == nil {
		return errors.New("no reason was given")
	}
	return err
}
