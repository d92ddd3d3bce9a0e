package job

import (
	"slices"

	"github.com/gantry-ml/gantry/progress"
)

// over reports whether the job has ended.
func (j *Job) over() bool { return j.end != "" }

// Status tells where the job stands.
func (j *Job) Status() Status {
	switch {
	case j.over():
		return j.end
	case !j.started || !j.waitUntil.IsZero():
		return Waiting
	case j.counters.ChunksDone < j.counters.ChunksTotal:
		return Loading
	}
	return Sealing
}

// Err tells why the job ended; nil before and when it is ready.
func (j *Job) Err() error {
	if !j.over() {
		return nil
	}
	return j.err
}

// wholeCopy reports whether all ranks of one of the copies are sealed.
func (j *Job) wholeCopy() bool {
	whole := make([]bool, max(j.plan.Options.Layout.DP, 1))
	for i := range whole {
		whole[i] = true
	}
	for i := range j.ranks {
		dp := j.plan.Ranks[i].DP
		whole[dp] = whole[dp] && j.ranks[i].sealed
	}
	return slices.Contains(whole, true)
}

// Missing tells what a job that waits for room lacks; nil where it does not
// wait.
func (j *Job) Missing() error {
	if j.waitUntil.IsZero() || j.over() {
		return nil
	}
	return j.missing
}

// Counters tells how far it is.
func (j *Job) Counters() progress.Counters {
	c := j.counters
	c.RanksValidated = j.sealed
	c.Ready = j.end == Ready
	return c
}

// RankStatus is one rank's place and progress. Hold.Worker is empty while the
// rank has no place.
type RankStatus struct {
	Hold       Hold
	BytesDone  int64
	BytesTotal int64
	Sealed     bool
	Digest     [16]byte // where sealed
}

// Ranks tells how far each rank is, by rank.
func (j *Job) Ranks() []RankStatus {
	all := make([]RankStatus, len(j.ranks))
	for i := range j.ranks {
		r := &j.ranks[i]
		all[i] = RankStatus{Hold: r.hold, BytesDone: r.done, BytesTotal: r.total, Sealed: r.sealed, Digest: r.digest}
	}
	return all
}

// Retries counts failed tries that were tried again.
func (j *Job) Retries() int { return j.retries }

// SourceVerified reports whether every chunk is placed and was made of bytes
// that matched the source's digests.
func (j *Job) SourceVerified() bool {
	return !j.unchecked && j.counters.ChunksTotal > 0 && j.counters.ChunksDone == j.counters.ChunksTotal
}

// BytesRead counts the stored bytes that workers report to have read,
// repeated reads included.
func (j *Job) BytesRead() int64 { return j.bytesRead }
