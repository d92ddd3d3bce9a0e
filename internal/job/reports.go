package job

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// regroup is how long a chunk is held back, times its failures so far, when a
// worker could not deliver to another that nobody suspects yet: time for the
// news to arrive.
const regroup = time.Second

// maxFills bounds the pauses of a worker whose memory is full, in twos of
// regroup.
const maxFills = 15

func (j *Job) accepted(e Accepted) {
	if f := j.current(e.Ref); f != nil {
		f.accepted = true
	} else if j.superseded(e.Ref) {
		j.do(Revoke(e))
	}
}

// superseded reports whether ref is an attempt that was taken back, rather
// than a read that has ended with its report.
func (j *Job) superseded(ref Ref) bool {
	return j.life(ref.Worker) != nil && ref.Chunk >= 0 && ref.Chunk < len(j.chunks) &&
		ref.Attempt != j.chunks[ref.Chunk].reported && j.current(ref) == nil
}

// holding compares what a worker says it is doing with what it should do.
func (j *Job) holding(e Holding) {
	w := j.life(e.Worker)
	if w == nil {
		return
	}
	j.stamp++
	j.look(w) // others may be slower by now than they seemed
	for _, ref := range e.Refs {
		if ref.Worker != w.id {
			continue
		}
		if f := j.current(ref); f != nil {
			f.accepted, f.listed, f.absent = true, j.stamp, time.Time{}
		} else if j.superseded(ref) {
			j.do(Revoke{Ref: ref})
		}
	}
	for i := len(w.flying) - 1; i >= 0; i-- {
		f := w.flying[i]
		switch {
		case !f.accepted || f.listed == j.stamp:
		case f.absent.IsZero():
			f.absent = j.now
		case j.now.Sub(f.absent) >= j.o.Accept:
			j.recall(f)
		}
	}
	for _, rank := range e.Sealed {
		j.missed(w, rank)
	}
}

// missed asks again about a rank that its worker has said to have sealed: the
// report was lost on its way.
func (j *Job) missed(w *worker, rank int) {
	if rank < 0 || rank >= len(j.ranks) {
		return
	}
	if r := &j.ranks[rank]; r.home == w && r.placed && r.missing == 0 && !r.sealed {
		r.due = time.Time{}
		j.askSeal(r)
	}
}

func (j *Job) chunkRetried(e ChunkRetried) {
	f := j.current(e.Ref)
	if f == nil {
		return
	}
	f.accepted = true
	if e.Failed <= f.failed {
		return
	}
	failed := e.Failed - f.failed
	j.retries += failed
	f.failed = e.Failed
	j.emit(progress.ChunkRetry, e.Ref.Worker.Name, -1, e.Ref.Chunk, "try %d failed: %v", e.Failed, j.locate(e.Ref.Chunk, e.Err))
	if j.spend(f, e, failed); !j.over() {
		j.withdraw(f)
	}
}

// withdraw takes back a read of which tries have failed and a piece is for a
// rank that cannot be reached now: the next would read for nothing.
func (j *Job) withdraw(f *flight) {
	if f.piece >= 0 || f.failed == 0 {
		return
	}
	if cut, _ := j.reach(f); cut {
		j.recall(f)
	}
}

// spend counts failed tries against the budget, and ends the job when that is
// used up. Those of copies, and
// those that a lost worker may have caused, cost nothing.
func (j *Job) spend(f *flight, e ChunkRetried, failed int) {
	if _, remote := j.reach(f); f.piece >= 0 || remote && peerClass(recovery.ClassOf(e.Err)) {
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

// reach tells where the read under way of a chunk places its pieces: at a rank
// that cannot be reached now, at a worker other than its own.
func (j *Job) reach(f *flight) (cut, remote bool) {
	ch := &j.chunks[f.chunk]
	for at := ch.first; at < ch.stop; at++ {
		if p := &j.pieces[at]; p.asked {
			cut = cut || !p.open
			remote = remote || j.ranks[p.rank].home != f.worker
		}
	}
	return cut, remote
}

func (j *Job) chunkDone(e ChunkDone) {
	j.count(e.Ref, e.BytesRead)
	f := j.current(e.Ref)
	if f == nil {
		j.compare(e)
		return
	}
	for _, d := range e.Pieces {
		at := j.find(f.chunk, d.Rank)
		if at < 0 || !j.wants(f, at) || j.ranks[d.Rank].hold.Generation != d.Generation {
			continue
		}
		if want, ok := j.digest(at); ok && want != d.Digest {
			j.failChunk(f.chunk, e.Ref.Worker.Name, j.differs(f.chunk, d, want))
			return
		}
		p := &j.pieces[at]
		p.known, p.digest, p.asked, p.fails = true, d.Digest, false, 0
		j.unchecked = j.unchecked || !d.Verified
		j.mark(at)
	}
	for at := j.chunks[f.chunk].first; at < j.chunks[f.chunk].stop; at++ {
		if j.wants(f, at) {
			j.failChunk(f.chunk, e.Ref.Worker.Name, recovery.Errorf(recovery.Internal,
				"reported as done without its piece for rank %d", j.pieces[at].rank))
			return
		}
	}
	if f.piece < 0 {
		f.read = j.chunks[f.chunk].bytes
		j.budget = min(j.budget+1, j.o.RetryBudget)
		// Where all is placed and nobody has said to have read it, it was a
		// worker that was lost before it could.
		if c := &j.chunks[f.chunk]; c.reported == 0 && !c.untold {
			c.untold = true
			j.bytesRead += c.bytes
		}
	}
	j.land(f)
	j.resume(f) // what was lost meanwhile; the next copy
}

// wants reports whether an attempt is to place a piece, and has not.
func (j *Job) wants(f *flight, at int) bool {
	if f.piece >= 0 {
		return f.piece == at && !j.pieces[at].placed
	}
	return j.pieces[at].asked
}

// digest returns what a piece hashed to whenever it was placed, here or at a
// replica.
func (j *Job) digest(at int) ([16]byte, bool) {
	for _, p := range j.twins(at) {
		if p.known {
			return p.digest, true
		}
	}
	return [16]byte{}, false
}

// mark counts a piece as placed.
func (j *Job) mark(at int) {
	p := &j.pieces[at]
	r, ch := &j.ranks[p.rank], &j.chunks[p.chunk]
	p.given = 0
	r.missing--
	r.done += p.bytes
	j.counters.BytesPlaced += p.bytes
	if ch.missing--; ch.missing == 0 {
		j.counters.ChunksDone++
	}
	j.change(at, func(p *piece) { p.placed = true })
	j.askSeal(r)
}

// unmark forgets a placed piece.
func (j *Job) unmark(at int) {
	p := &j.pieces[at]
	r, ch := &j.ranks[p.rank], &j.chunks[p.chunk]
	r.missing++
	r.done -= p.bytes
	j.counters.BytesPlaced -= p.bytes
	if ch.missing++; ch.missing == 1 {
		j.counters.ChunksDone--
	}
	j.change(at, func(p *piece) { p.placed = false })
}

// find returns the piece of a chunk for a rank, or -1.
func (j *Job) find(c, rank int) int {
	for at := j.chunks[c].first; at < j.chunks[c].stop; at++ {
		if j.pieces[at].rank == rank {
			return at
		}
	}
	return -1
}

// count adds the reads of an attempt to bytesRead, once.
func (j *Job) count(ref Ref, bytes int64) {
	if ref.Chunk < 0 || ref.Chunk >= len(j.chunks) || bytes <= 0 {
		return
	}
	c := &j.chunks[ref.Chunk]
	if _, done := j.counted[attempt{ref.Chunk, ref.Attempt}]; done || ref.Attempt == 0 || ref.Attempt > c.attempt || ref.Attempt == c.reported {
		return
	}
	if c.reported != 0 {
		j.counted[attempt{ref.Chunk, min(c.reported, ref.Attempt)}] = struct{}{}
	}
	if c.untold {
		c.untold = false
		j.bytesRead -= c.bytes
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
		at := j.find(e.Ref.Chunk, d.Rank)
		if at < 0 {
			continue
		}
		if want, ok := j.digest(at); ok && want != d.Digest {
			j.emit(progress.ChunkFailed, e.Ref.Worker.Name, d.Rank, e.Ref.Chunk, "late report of attempt %d, not counted: %v",
				e.Ref.Attempt, j.differs(e.Ref.Chunk, d, want))
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
	f := j.current(e.Ref)
	if f == nil {
		return
	}
	if f.piece >= 0 {
		j.copyFailed(f, e.Err)
		return
	}
	ch := &j.chunks[f.chunk]
	cut, remote := j.reach(f)
	switch class := recovery.ClassOf(e.Err); {
	case class == recovery.OutOfCapacity && ch.failures < j.o.Strategy.Limit() && j.others(f.worker):
		j.fill(f.worker)
		j.later(f, e)
	case !peerClass(class):
		j.failChunk(f.chunk, e.Ref.Worker.Name, e.Err)
	case cut:
		j.land(f)
		j.refresh(f.chunk)
	// Stale is a piece that somebody else began to write: who, if this attempt
	// is the newest, is of no matter.
	case (remote || class == recovery.WorkerLost || class == recovery.Cancelled || class == recovery.Stale) && ch.failures < j.o.Strategy.Limit():
		j.later(f, e)
	default:
		j.failChunk(f.chunk, e.Ref.Worker.Name, e.Err)
	}
}

// later has a read that failed made anew after a pause, by whoever is free then.
func (j *Job) later(f *flight, e ChunkFailed) {
	ch := &j.chunks[f.chunk]
	ch.failures++
	j.retries++
	j.emit(progress.ChunkRetry, e.Ref.Worker.Name, -1, f.chunk, "attempt %d failed: %v", f.number, j.locate(f.chunk, e.Err))
	j.land(f)
	j.pause(pause{chunk: f.chunk, piece: -1}, ch.failures)
}

// others reports whether some worker could read in the place of w.
func (j *Job) others(w *worker) bool {
	return slices.ContainsFunc(j.workers, func(x *worker) bool { return x != w && x.health == up })
}

// fill gives a worker whose memory is full no more to read for a while, longer
// each time: the others take what is in its queue.
func (j *Job) fill(w *worker) {
	if !w.full.IsZero() {
		return // of the same time
	}
	w.fills++
	w.full = j.now.Add(time.Duration(min(w.fills, maxFills)) * 2 * regroup)
	j.arm(w.full)
	for _, x := range j.workers {
		j.look(x) // they had left it what it would have read sooner
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
