package telemetry

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/progress"
)

// Limits of the pace.
const (
	interval   = 250 * time.Millisecond // between reports of one worker about one job: 4 a second
	maxWaiting = 8                      // stage changes that wait to be sent; a load has five
	forget     = time.Hour              // silence after which a job is forgotten, with its sequence
)

// report is an update that is ready to be sent.
type report struct {
	update progress.Update
	header nats.Header
}

// pace decides which updates are sent when: the latest of a job and worker at
// most every interval, and one at each change of stage at once. It is pure: it
// is told the time.
type pace map[paceKey]*paced

type paceKey struct{ job, worker string }

type paced struct {
	changes []report // first updates of their stage
	latest  *report  // newest since the last one sent
	stage   progress.Stage
	seq     uint64
	heard   time.Time
	sent    time.Time
}

// add takes an update. It returns false where one had to be dropped, which
// takes a job that changes its stage back and forth.
func (p pace) add(now time.Time, r report) bool {
	key := paceKey{r.update.Job, r.update.Worker}
	s := p[key]
	if s == nil {
		s = &paced{}
		p[key] = s
	}
	s.heard = now
	if r.update.Stage == s.stage {
		s.latest = &r
		return true
	}
	s.stage, s.latest = r.update.Stage, nil
	if len(s.changes) == maxWaiting {
		s.changes = append(s.changes[:0], s.changes[1:]...)
		s.changes = append(s.changes, r)
		return false
	}
	s.changes = append(s.changes, r)
	return true
}

// take returns what may be sent now, and when to ask again (zero: when there
// is something new). With all set it does not wait for the interval.
func (p pace) take(now time.Time, all bool) (out []report, again time.Time) {
	for key, s := range p {
		for _, r := range s.changes {
			out = append(out, s.stamp(now, r))
		}
		s.changes = nil
		due := s.sent.Add(interval)
		switch {
		case s.latest == nil && now.Sub(s.heard) > forget:
			delete(p, key)
		case s.latest == nil:
		case all || !now.Before(due):
			out = append(out, s.stamp(now, *s.latest))
			s.latest = nil
		case again.IsZero() || due.Before(again):
			again = due
		}
	}
	return out, again
}

func (s *paced) stamp(now time.Time, r report) report {
	s.seq++
	s.sent = now
	r.update.Seq = s.seq
	return r
}
