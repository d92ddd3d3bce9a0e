package actors

import (
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// measureEvery is how often a worker looks at what is free of its devices:
// other programs take and give back memory too.
const measureEvery = 5 * time.Second

// measured is what was free of devices while some arenas were there.
type measured struct {
	free   map[string]int64
	arenas []*shardTask
}

// measure looks at the devices, in a goroutine that tells.
func (w *worker) measure(c actor.Context) {
	if w.Measure == nil || w.measuring || time.Since(w.measuredAt) < measureEvery {
		return
	}
	w.measuring = true
	m := measured{arenas: w.arenas()}
	self := c.Self()
	w.goDo(func() {
		m.free = w.Measure()
		w.system.root.Send(self, m)
	})
}

// arenas lists those that are made.
func (w *worker) arenas() (all []*shardTask) {
	for _, j := range w.jobs {
		for _, s := range j.shards {
			if s.placed {
				all = append(all, s)
			}
		}
	}
	return all
}

// measured sets the budgets of devices: what is free, and what arenas take that
// were there before and after. Small changes are let be, so that the lease is
// not written for nothing.
func (w *worker) measured(m measured) {
	w.measuring, w.measuredAt = false, time.Now()
	now := w.arenas()
	devices := slices.Clone(w.Member.Devices)
	changed := false
	for i := range devices {
		d := &devices[i]
		budget, ok := m.free[d.ID]
		if !ok {
			continue // it is fixed
		}
		for _, s := range m.arenas {
			if s.hold.Device == d.ID && slices.Contains(now, s) {
				budget += s.bytes
			}
		}
		if diff := budget - d.Free; max(diff, -diff) > d.Total/64 {
			d.Free, changed = budget, true
		}
	}
	if !changed {
		return
	}
	w.Member.Devices = devices
	w.Log.Info("what is free of devices has changed", "worker", w.life.Name)
	w.Changed(w.Member)
}
