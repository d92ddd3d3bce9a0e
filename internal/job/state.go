package job

import "time"

// phase is where the read of a chunk stands.
type phase uint8

const (
	pending phase = iota // not to be dispatched: blocked, or nothing is left to read
	queued               // in the queue of a worker
	flying               // an attempt is under way
)

// chunk is the state of one chunk. Its pieces are Job.pieces[first:stop].
type chunk struct {
	first, stop int
	bytes       int64
	near        int // the rank whose worker should read it, -1: any's
	phase       phase
	missing     int // pieces that are not placed
	unread      int // pieces that no replica has, replicas counted once: only a read gives them
	// blocked counts the reasons not to read it: unread pieces of which no
	// rank is open, and a pause.
	blocked  int
	attempt  uint64  // of the last dispatch
	worker   int     // whose queue it is in
	read     *flight // the read under way
	failures int     // reads that failed and were tried again
	reported uint64  // the last read whose bytes are in Job.bytesRead
	untold   bool    // it was read by who has not told, and counts once nevertheless
}

// piece is the state of what one chunk leaves at one rank.
type piece struct {
	chunk, rank int
	bytes       int64
	twin        int // the next of the replicas' pieces with the same bytes, in a ring; itself where there is none
	placed      bool
	open        bool    // its rank is
	asked       bool    // the chunk's read under way places it
	giver       *worker // has it in its gives, or copies it
	copy        *flight // the copy to it under way
	given       int     // copies made of it since it was placed
	fails       int     // copies to it that failed
	parted      bool    // only a read gives it
	resting     bool    // no copy to it now: the last one failed
	known       bool    // digest is set; it stays when the piece is lost
	digest      [16]byte
}

// flight is an attempt under way: the read of a chunk, or the copy of a piece
// from a replica's arena.
type flight struct {
	chunk    int
	piece    int  // that is copied, in Job.pieces; -1: a read
	from     Hold // of a copy
	number   uint64
	worker   *worker // who flies it
	slot     int     // in that worker's flying
	accepted bool
	sent     time.Time // when its Load was sent last
	absent   time.Time // since when Holding does not list it, zero: it does
	listed   uint64    // stamp of the last Holding that did
	read     int64     // stored bytes that it has read, once it is done
	failed   int       // tries that the worker reported as failed
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
	refused int       // homes that had no memory to check it
	why     string    // it lost its last home
	// inherited says that an earlier driver gave hold its generation: it may be
	// that of an arena which is there.
	inherited bool
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
	flying  []*flight
	out     int64        // stored bytes that it reads
	queue   set          // chunks that it should read, because it owns most of them
	queued  int64        // stored bytes of those
	giving  int64        // bytes that it copies to others
	gives   []int        // pieces that it should copy; what has another giver by now, or a copy, counts no more
	ghosts  []Hold       // arenas of this life that ranks were moved away from
	lends   map[int]bool // by rank of the first copy: whether it can copy that from another job's arena
	placing int          // its ranks whose arenas are not there yet
	hungry  bool         // in Job.hungry
	meter   meter
	losesAt time.Time
	full    time.Time // until when it reads nothing, because its memory was full; zero: it reads
	fills   int       // how often that was so
}

// fits reports whether the worker's credit covers one more chunk.
func (w *worker) fits(bytes int64) bool {
	return w.health == up && w.full.IsZero() && (w.out == 0 || w.out+bytes <= w.window)
}

// attempt names an attempt at a chunk, whoever flew it.
type attempt struct {
	chunk  int
	number uint64
}

// ref names an attempt.
func (f *flight) ref() Ref { return Ref{Chunk: f.chunk, Attempt: f.number, Worker: f.worker.id} }

// current returns the attempt under way that ref names, or nil.
func (j *Job) current(ref Ref) *flight {
	if f := j.flights[attempt{ref.Chunk, ref.Attempt}]; f != nil && f.worker.id == ref.Worker {
		return f
	}
	return nil
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
