package loader

import (
	"slices"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/progress"
)

// reportEvery is the shortest time between two updates of the same stage.
const reportEvery = 250 * time.Millisecond

// reporter keeps the latest update and hands updates to the caller's function
// from a goroutine of its own.
type reporter struct {
	notify func(progress.Update) // nil: nobody listens
	marks  chan progress.Update  // changes of stage
	quit   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	latest  progress.Update
	begun   time.Time // of the latest stage
	read    int64     // stored bytes before it
	loading time.Time // when reading began
	times   []model.StageTime
}

func newReporter(name string, notify func(progress.Update)) *reporter {
	now := time.Now()
	r := &reporter{notify: notify, begun: now,
		latest: progress.Update{Job: jobID, Model: name, Worker: jobID, Rank: -1, Stage: progress.Initializing, ETASec: -1, Time: now}}
	if notify != nil {
		// Every stage comes once, so that marking one never waits.
		r.marks = make(chan progress.Update, len(progress.Stages)+1)
		r.quit, r.done = make(chan struct{}), make(chan struct{})
		r.marks <- r.latest
		go r.run()
	}
	return r
}

// run calls notify until stop, last of all with the latest update.
func (r *reporter) run() {
	defer close(r.done)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var seen uint64
	tell := func(u progress.Update) {
		seen = u.Seq
		r.notify(u)
	}
	for {
		select {
		case u := <-r.marks:
			tell(u)
		case <-tick.C:
			if u := r.now(); u.Seq > seen {
				tell(u)
			}
		case <-r.quit:
			for len(r.marks) > 0 {
				if u := <-r.marks; u.Seq > seen {
					tell(u)
				}
			}
			if u := r.now(); u.Seq > seen {
				tell(u)
			}
			return
		}
	}
}

// stop waits for the last call of notify.
func (r *reporter) stop() {
	if r.notify != nil {
		close(r.quit)
		<-r.done
	}
}

// now returns the latest update.
func (r *reporter) now() progress.Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest
}

// update takes the job's counters.
func (r *reporter) update(c progress.Counters) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	u := &r.latest
	stage := c.Stage()
	if r.loading.IsZero() {
		r.loading = now
	}
	u.BytesDone, u.BytesTotal, u.ChunksDone, u.ChunksTotal = c.BytesRead, c.BytesToRead, c.ChunksDone, c.ChunksTotal
	u.Overall = max(u.Overall, c.Overall())
	u.Seq++
	u.Time = now
	if s := now.Sub(r.loading).Seconds(); s > 0 && c.BytesRead > 0 {
		u.RateBytesPerSec = float64(c.BytesRead) / s
		u.ETASec = float64(c.BytesToRead-c.BytesRead) / u.RateBytesPerSec
	}
	if slices.Index(progress.Stages, stage) > slices.Index(progress.Stages, u.Stage) {
		r.times = append(r.times, model.StageTime{Stage: u.Stage, Seconds: now.Sub(r.begun).Seconds(), BytesRead: c.BytesRead - r.read})
		u.Stage, r.begun, r.read = stage, now, c.BytesRead
		if r.notify != nil {
			r.marks <- *u
		}
	}
}

// stages returns how long each stage that is over took.
func (r *reporter) stages() []model.StageTime {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]model.StageTime(nil), r.times...)
}
