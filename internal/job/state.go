package job

import "time"

// phase is where a chunk stands.
type phase uint8

const (
	pending  phase = iota // cannot be dispatched: blocked
	queued                // in the queue of a worker
	flying                // an attempt is under way
	finished              // no piece is missing
)

// chunk is the state of one chunk. Its pieces are Job.pieces[first:stop].
type chunk struct {
	first, stop int
	bytes       int64
	near        int // the rank whose worker should read it, -1: any's
	phase       phase
	missing     int // pieces that are not placed
	// blocked counts the reasons not to dispatch it: missing pieces whose
	// rank is not open, and a pause.
	blocked  int
	attempt  uint64 // of the last dispatch
	worker   int    // whose queue it is in, or who flies it
	slot     int    // in that worker's flying
	accepted bool
	sent     time.Time // when the attempt's Load was sent last
	absent   time.Time // since when Holding does not list it, zero: it does
	listed   uint64    // stamp of the last Holding that did
	failed   int       // tries of this attempt that the worker reported as failed
	failures int       // attempts that failed and were tried again
	reported uint64    // the last attempt whose reads are in Job.bytesRead
	resume   time.Time // end of its pause
}

// piece is the state of what one chunk leaves at one rank.
type piece struct {
	chunk, rank int
	bytes       int64
	placed      bool
	asked       bool // the chunk's attempt under way places it
	known       bool // digest is set; it stays when the piece is lost
	digest      [16]byte
}

// rank is the state of one rank.
type rank struct {
	hold    Hold // Worker is zero while it has no home
	bytes   int64
	home    *worker
	placed  bool // its arena is there
	open    bool // placed, and its worker is up
	sealed  bool
	digest  [16]byte
	pieces  []int // indices into Job.pieces, by chunk
	missing int
	done    int64 // bytes placed
	total   int64
	due     time.Time // when Place or Seal is sent again, zero: nothing is asked
	fails   int       // Place and Seal answers that said no
	why     string    // it lost its last home
}

// health is where a worker stands.
type health uint8

const (
	up health = iota
	suspect
	gone
)

// worker is the state of one worker, by name; id tells which life of it.
type worker struct {
	id      Worker
	at      int // in Job.workers
	health  health
	rooms   []Room
	window  int64
	out     int64  // stored bytes of its attempts
	flying  []int  // chunks
	queue   set    // chunks that it should read, because it owns most of them
	queued  int64  // stored bytes of those
	ghosts  []Hold // arenas of this life that ranks were moved away from
	hungry  bool   // in Job.hungry
	losesAt time.Time
}

// fits reports whether the worker's credit covers one more chunk.
func (w *worker) fits(bytes int64) bool {
	return w.health == up && (w.out == 0 || w.out+bytes <= w.window)
}

// takes reports whether the worker should read one more chunk of another's
// queue, in which so many bytes are left: when it has nothing to do, or else
// as long as it leaves there as much as it has under way.
func (w *worker) takes(bytes, left int64) bool {
	return w.fits(bytes) && (w.out == 0 || w.out+bytes <= left-bytes)
}

// attempt names an attempt at a chunk, whoever flew it.
type attempt struct {
	chunk  int
	number uint64
}

// ref names the current attempt at a chunk.
func (j *Job) ref(c int) Ref {
	return Ref{Chunk: c, Attempt: j.chunks[c].attempt, Worker: j.workers[j.chunks[c].worker].id}
}

// current reports whether ref is an attempt under way.
func (j *Job) current(ref Ref) bool {
	return ref.Chunk >= 0 && ref.Chunk < len(j.chunks) && j.chunks[ref.Chunk].phase == flying && j.ref(ref.Chunk) == ref
}

// held returns the rank that lies in hold, or nil if the hold is not good.
func (j *Job) held(h Hold) *rank {
	if h.Rank < 0 || h.Rank >= len(j.ranks) || j.ranks[h.Rank].home == nil || j.ranks[h.Rank].hold != h {
		return nil
	}
	return &j.ranks[h.Rank]
}

// life returns the worker if that life of it is the newest known and not lost.
func (j *Job) life(id Worker) *worker {
	if w := j.byName[id.Name]; w != nil && w.id == id && w.health != gone {
		return w
	}
	return nil
}
