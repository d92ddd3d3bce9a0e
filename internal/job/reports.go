package job

import (
	"errors"
	"fmt"
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// regroup is how long a chunk is held back, times its failures so far, when a
// worker could not deliver to another that nobody suspects yet: time for the
// news to arrive.
const regroup = time.Second

func (j *Job) accepted(e Accepted) {
	if j.current(e.Ref) {
		j.chunks[e.Ref.Chunk].accepted = true
	} else if j.superseded(e.Ref) {
		j.do(Revoke(e))
	}
}

// superseded reports whether ref is an attempt that was taken back, rather
// than one that has ended with its report.
func (j *Job) superseded(ref Ref) bool {
	return j.life(ref.Worker) != nil && ref.Chunk >= 0 && ref.Chunk < len(j.chunks) &&
		ref.Attempt != j.chunks[ref.Chunk].reported && !j.current(ref)
}

// holding compares what a worker says it is doing with what it should do.
func (j *Job) holding(e Holding) {
	w := j.life(e.Worker)
	if w == nil {
		return
	}
	j.stamp++
	for _, ref := range e.Refs {
		switch {
		case ref.Worker != w.id:
		case j.current(ref):
			c := &j.chunks[ref.Chunk]
			c.accepted, c.listed, c.absent = true, j.stamp, time.Time{}
		case j.superseded(ref):
			j.do(Revoke{Ref: ref})
		}
	}
	for i := len(w.flying) - 1; i >= 0; i-- {
		c := &j.chunks[w.flying[i]]
		switch {
		case !c.accepted || c.listed == j.stamp:
		case c.absent.IsZero():
			c.absent = j.now
		case j.now.Sub(c.absent) >= j.o.Accept:
			j.recall(w.flying[i])
		}
	}
}

func (j *Job) chunkRetried(e ChunkRetried) {
	if !j.current(e.Ref) {
		return
	}
	c := &j.chunks[e.Ref.Chunk]
	c.accepted = true
	if e.Failed <= c.failed {
		return
	}
	failed := e.Failed - c.failed
	j.retries += failed
	c.failed = e.Failed
	j.emit(progress.ChunkRetry, e.Ref.Worker.Name, -1, e.Ref.Chunk, "try %d failed: %v", e.Failed, j.locate(e.Ref.Chunk, e.Err))
	j.spend(e, failed)
}

// spend counts failed tries against the budget, and ends the job when that is
// used up. Those that a lost worker may have caused cost nothing.
func (j *Job) spend(e ChunkRetried, failed int) {
	if _, remote := j.reach(e.Ref.Chunk); remote && peerClass(recovery.ClassOf(e.Err)) {
		return
	}
	if j.budget -= failed; j.budget >= 0 {
		return
	}
	err := orUnknown(e.Err)
	j.failChunk(e.Ref.Chunk, e.Ref.Worker.Name, &recovery.Error{Class: recovery.ClassOf(err),
		Err:  fmt.Errorf("%d tries have failed and %d chunks came through, which is more than the job's budget of %d tries; the last: %w", j.retries, j.counters.ChunksDone, j.o.RetryBudget, err),
		Hint: "mend the source, or give the job a larger --retry-budget"})
}

// reach tells where the attempt under way at a chunk places its pieces: at a
// rank that cannot be reached now, at a worker other than its own.
func (j *Job) reach(c int) (cut, remote bool) {
	ch := &j.chunks[c]
	for p := ch.first; p < ch.stop; p++ {
		if j.pieces[p].asked {
			r := &j.ranks[j.pieces[p].rank]
			cut = cut || !r.open
			remote = remote || r.home.at != ch.worker
		}
	}
	return cut, remote
}

func (j *Job) chunkDone(e ChunkDone) {
	j.count(e.Ref, e.BytesRead)
	if !j.current(e.Ref) {
		j.compare(e)
		return
	}
	c := e.Ref.Chunk
	ch := &j.chunks[c]
	for _, d := range e.Pieces {
		p := j.find(c, d.Rank)
		if p == nil || !p.asked || j.ranks[d.Rank].hold.Generation != d.Generation {
			continue
		}
		if p.known && p.digest != d.Digest {
			j.failChunk(c, e.Ref.Worker.Name, j.differs(c, d, p.digest))
			return
		}
		p.known, p.digest, p.asked = true, d.Digest, false
		j.unchecked = j.unchecked || !d.Verified
		j.mark(p)
	}
	for p := ch.first; p < ch.stop; p++ {
		if j.pieces[p].asked {
			j.failChunk(c, e.Ref.Worker.Name, recovery.Errorf(recovery.Internal,
				"reported as done without its piece for rank %d", j.pieces[p].rank))
			return
		}
	}
	j.land(c)
	if ch.missing > 0 { // lost meanwhile
		j.refresh(c)
		return
	}
	ch.phase = finished
	j.counters.ChunksDone++
	j.counters.BytesRead += ch.bytes
	j.budget = min(j.budget+1, j.o.RetryBudget)
	for p := ch.first; p < ch.stop; p++ {
		j.askSeal(&j.ranks[j.pieces[p].rank])
	}
}

// mark counts a piece as placed.
func (j *Job) mark(p *piece) {
	r := &j.ranks[p.rank]
	p.placed = true
	j.chunks[p.chunk].missing--
	if !r.open {
		j.chunks[p.chunk].blocked--
	}
	r.missing--
	r.done += p.bytes
	j.counters.BytesPlaced += p.bytes
}

// unmark forgets a placed piece.
func (j *Job) unmark(p *piece) {
	r, ch := &j.ranks[p.rank], &j.chunks[p.chunk]
	p.placed = false
	if ch.phase == finished {
		ch.phase = pending
		j.counters.ChunksDone--
		j.counters.BytesRead -= ch.bytes
	}
	ch.missing++
	if !r.open {
		ch.blocked++
	}
	r.missing++
	r.done -= p.bytes
	j.counters.BytesPlaced -= p.bytes
}

// find returns the piece of a chunk for a rank, or nil.
func (j *Job) find(c, rank int) *piece {
	for p := j.chunks[c].first; p < j.chunks[c].stop; p++ {
		if j.pieces[p].rank == rank {
			return &j.pieces[p]
		}
	}
	return nil
}

// count adds the reads of an attempt to bytesRead, once.
func (j *Job) count(ref Ref, bytes int64) {
	if ref.Chunk < 0 || ref.Chunk >= len(j.chunks) || bytes < 0 {
		return
	}
	c := &j.chunks[ref.Chunk]
	if _, done := j.counted[attempt{ref.Chunk, ref.Attempt}]; done || ref.Attempt == 0 || ref.Attempt > c.attempt || ref.Attempt == c.reported {
		return
	}
	if c.reported != 0 {
		j.counted[attempt{ref.Chunk, min(c.reported, ref.Attempt)}] = struct{}{}
	}
	c.reported = max(c.reported, ref.Attempt)
	j.bytesRead += bytes
}

// compare looks at a report that comes too late: its pieces change nothing,
// but where their digests differ from those placed, somebody should know.
func (j *Job) compare(e ChunkDone) {
	if e.Ref.Chunk < 0 || e.Ref.Chunk >= len(j.chunks) {
		return
	}
	for _, d := range e.Pieces {
		if p := j.find(e.Ref.Chunk, d.Rank); p != nil && p.known && p.digest != d.Digest {
			j.emit(progress.ChunkFailed, e.Ref.Worker.Name, d.Rank, e.Ref.Chunk, "late report of attempt %d, not counted: %v",
				e.Ref.Attempt, j.differs(e.Ref.Chunk, d, p.digest))
		}
	}
}

func (j *Job) differs(c int, d PieceDone, want [16]byte) error {
	e := recovery.Errorf(recovery.DigestMismatch, "the piece for rank %d has digest %x, and had %x when it was placed before", d.Rank, d.Digest, want)
	e.Hint = "the source changed during the load, or a memory is faulty"
	return j.locate(c, e)
}

func (j *Job) chunkFailed(e ChunkFailed) {
	j.count(e.Ref, e.BytesRead)
	if !j.current(e.Ref) {
		return
	}
	c := e.Ref.Chunk
	ch := &j.chunks[c]
	cut, remote := j.reach(c)
	switch class := recovery.ClassOf(e.Err); {
	case !peerClass(class):
		j.failChunk(c, e.Ref.Worker.Name, e.Err)
	case cut:
		j.land(c)
		j.refresh(c)
	case (remote || class == recovery.WorkerLost || class == recovery.Cancelled) && ch.failures < j.o.Strategy.Limit():
		ch.failures++
		j.retries++
		j.emit(progress.ChunkRetry, e.Ref.Worker.Name, -1, c, "attempt %d failed: %v", ch.attempt, j.locate(c, e.Err))
		j.land(c)
		j.pause(c, time.Duration(ch.failures)*regroup)
	default:
		j.failChunk(c, e.Ref.Worker.Name, e.Err)
	}
}

// peerClass reports whether a failure may come from the loss of a worker
// rather than from the chunk or its source.
func peerClass(c recovery.Class) bool {
	switch c {
	case recovery.WorkerLost, recovery.Reset, recovery.Timeout, recovery.Stale, recovery.Cancelled:
		return true
	}
	return false
}

// failChunk ends the job by the failure of a chunk.
func (j *Job) failChunk(c int, worker string, err error) {
	err = j.locate(c, err)
	j.emit(progress.ChunkFailed, worker, -1, c, "%v", err)
	j.fail(err)
}

// locate adds the chunk's place to an error that does not name its own.
func (j *Job) locate(c int, err error) error {
	if err == nil {
		err = errors.New("no reason was given")
	}
	var e *recovery.Error
	if errors.As(err, &e) && e.File != "" {
		return err
	}
	pc := &j.plan.Chunks[c]
	out := &recovery.Error{Class: recovery.ClassOf(err), Op: fmt.Sprintf("load chunk %d", c), Offset: pc.Offset, Length: pc.Bytes, Err: err}
	if pc.File >= 0 && pc.File < len(j.plan.Files) {
		out.File = j.plan.Files[pc.File].Name
	}
	if len(pc.Segments) > 0 {
		if t := pc.Segments[0].Tensor; t >= 0 && t < len(j.plan.Tensors) {
			out.Tensor = j.plan.Tensors[t].Name
		}
	}
	return out
}
