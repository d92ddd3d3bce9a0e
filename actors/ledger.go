package actors

import (
	"sync"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
)

// ledger says which device memory is spoken for, by running jobs and by
// resident models, so that two jobs that are planned at once are not given
// the same room. Jobs hold its lock from asking for rooms to reserving them.
// Workers check their budgets too; the ledger only keeps jobs from running
// into them.
type ledger struct {
	sync.Mutex
	held map[string]map[job.Hold]int64 // bytes, by job
}

// rooms returns what a job may use at a worker in all: the devices' budgets
// less what others hold there. The lock is held.
func (l *ledger) rooms(jobID string, w messages.Worker, wanted func(messages.Device) bool) []job.Room {
	var rooms []job.Room
	life := job.Worker{Name: w.Name, Incarnation: w.Incarnation}
	for _, d := range w.Devices {
		if !wanted(d) {
			continue
		}
		r := job.Room{Device: d.ID, Bytes: d.Free, Ranks: d.Ranks, NUMA: d.NUMA, Peers: d.NVLinkPeers}
		full := false
		for id, holds := range l.held {
			for h, bytes := range holds {
				if id == jobID || h.Worker != life || h.Device != d.ID {
					continue
				}
				r.Bytes -= bytes
				if d.Ranks > 0 {
					r.Ranks--
					full = full || r.Ranks == 0
				}
			}
		}
		if r.Bytes > 0 && !full {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// reserve notes an arena of a job. The lock is held.
func (l *ledger) reserve(jobID string, h job.Hold, bytes int64) {
	if l.held == nil {
		l.held = map[string]map[job.Hold]int64{}
	}
	if l.held[jobID] == nil {
		l.held[jobID] = map[job.Hold]int64{}
	}
	l.held[jobID][h] = bytes
}

// release forgets an arena of a job. The lock is held.
func (l *ledger) release(jobID string, h job.Hold) { delete(l.held[jobID], h) }

// leave releases a job's arenas at a worker that is lost.
func (l *ledger) leave(jobID string, w job.Worker) {
	l.Lock()
	defer l.Unlock()
	for h := range l.held[jobID] {
		if h.Worker == w {
			delete(l.held[jobID], h)
		}
	}
}

// forget releases all of a job's arenas.
func (l *ledger) forget(jobID string) {
	l.Lock()
	defer l.Unlock()
	delete(l.held, jobID)
}
