package job

import "time"

// Worker names one life of a worker process. A restarted worker has the same
// name and another incarnation.
type Worker struct {
	Name        string `json:"name"`
	Incarnation uint64 `json:"incarnation"`
}

// Room is free memory for arenas on one device of a worker.
type Room struct {
	Device string `json:"device"` // "cpu", "cuda:0"
	Bytes  int64  `json:"bytes"`
	Ranks  int    `json:"ranks,omitempty"` // at most so many ranks; 0 means as many as fit
	// NUMA is the node of the worker's host that the device is attached to, -1
	// where that is not known.
	NUMA int `json:"numa_node"`
	// Peers are the worker's devices that this one reaches by NVLink.
	Peers []string `json:"nvlink_peers,omitempty"`
}

// Ref names one attempt at one chunk. A report whose Ref is not the current
// one is stale and changes nothing.
type Ref struct {
	Chunk   int    `json:"chunk"`
	Attempt uint64 `json:"attempt"` // of dispatches, 1 for the first
	Worker  Worker `json:"worker"`
}

// Hold names one arena: a rank at a worker. Generation grows each time the
// rank is placed anew, so that a late write for an old arena is refused.
type Hold struct {
	Rank       int    `json:"rank"`
	Generation uint64 `json:"generation"`
	Worker     Worker `json:"worker"`
	Device     string `json:"device"`
}

// Event is something that happened in the world.
type Event interface{ event() }

// WorkerUp says that a worker is there, or there again: after a suspicion,
// with new room, or in a new incarnation (which loses the old one). It is for
// changes, not for every heartbeat.
type WorkerUp struct {
	Worker Worker
	// Rooms is what this job may use on each device in all. What its own holds
	// take there already is part of it.
	Rooms []Room
	// Window is how many stored bytes the worker takes at once. One chunk is
	// always allowed.
	Window int64
	// Lends are the ranks of the first copy that the worker can copy from an
	// arena of another job, which holds the same bytes.
	Lends []int
	// Held is what the worker has of this job from before: an earlier driver
	// of it is gone, and this one goes on where that one was.
	Held []Held
}

// Held is an arena of a worker and what is in it.
type Held struct {
	Hold   Hold
	Placed []Run // of the rank's pieces, counted in the order of its chunks
	// Verified says that all of those were made of bytes that were checked
	// against the source's digests.
	Verified bool
}

// Run is the half-open range [Start, Stop).
type Run struct{ Start, Stop int }

// WorkerSuspect says that the connection to a worker broke. Its unplaced
// chunks go elsewhere at once; its ranks stay until it is lost or up again.
type WorkerSuspect struct {
	Worker Worker
	Reason string
}

// WorkerLost says that a worker's lease ended: what it held is gone.
type WorkerLost struct {
	Worker Worker
	Reason string
}

// Placed says that a worker has made the arena of a Hold.
type Placed struct{ Hold Hold }

// PlaceFailed says that it could not.
type PlaceFailed struct {
	Hold Hold
	Err  error
}

// PieceDone is a piece that its rank's owner has received or written, checked
// by its digest.
type PieceDone struct {
	Rank       int
	Generation uint64
	Digest     [16]byte // xxh3-128
	Verified   bool     // what it was made of was checked against the source's digests
}

// Accepted says that a worker has received a Load before.
type Accepted struct{ Ref Ref }

// Holding lists every attempt that a worker has received and not reported
// yet; the worker sends it at least every second or so. An attempt that was
// received and stays out of it was lost with its report and is dispatched again; one
// that should not be in it is revoked again.
type Holding struct {
	Worker Worker
	Refs   []Ref
	Sealed []int // ranks that it has sealed, and said so
}

// ChunkDone says that an attempt has placed all the pieces it was asked for.
type ChunkDone struct {
	Ref       Ref
	BytesRead int64 // from the source, by this attempt, retries included
	Pieces    []PieceDone
}

// ChunkRetried says that the worker's try failed and it will try again by
// itself, within the same attempt.
type ChunkRetried struct {
	Ref    Ref
	Failed int // tries that have failed so far
	Err    error
}

// ChunkFailed says that the worker gave the attempt up.
type ChunkFailed struct {
	Ref       Ref
	BytesRead int64
	Err       error
}

// Sealed says that a rank was found whole and valid by its owner.
type Sealed struct {
	Hold   Hold
	Digest [16]byte
}

// SealFailed says that it was not.
type SealFailed struct {
	Hold Hold
	Err  error
}

// Cancel asks for the job to stop.
type Cancel struct{ Reason string }

// Abort ends the job as failed, for a reason outside of it: its deadline.
type Abort struct{ Err error }

// Tick says what time it is. The driver sends it at the time a Wake asked for.
type Tick struct{}

func (WorkerUp) event()      {}
func (WorkerSuspect) event() {}
func (WorkerLost) event()    {}
func (Placed) event()        {}
func (PlaceFailed) event()   {}
func (Accepted) event()      {}
func (Holding) event()       {}
func (ChunkDone) event()     {}
func (ChunkRetried) event()  {}
func (ChunkFailed) event()   {}
func (Sealed) event()        {}
func (SealFailed) event()    {}
func (Cancel) event()        {}
func (Abort) event()         {}
func (Tick) event()          {}

// Command is something the driver must do. Commands may be carried out late,
// twice or not at all: the machine asks again when an answer stays out or the
// world changes (package comment).
type Command interface{ command() }

// Place asks a worker to make an arena and to answer with Placed or
// PlaceFailed. For a hold that is placed it answers again; for one that is
// being made it does nothing more.
type Place struct {
	Hold  Hold
	Bytes int64
}

// Load asks a worker to read a chunk and place its pieces for the given holds;
// with From, to copy them from that arena of its own, which has them, and to
// read nothing. A From without a generation is an arena that it lends.
// It needs no answer but its report: most are over before the machine would
// ask again. A second Load with a Ref that the worker knows, running or over,
// must start nothing: it answers Accepted and no more.
type Load struct {
	Ref   Ref
	Dests []Hold
	From  *Hold
}

// Revoke tells a worker that an attempt is over: stop it, report nothing. It
// may name an attempt that the worker does not know (yet): a Load of it that
// comes later must start nothing.
type Revoke struct{ Ref Ref }

// Seal asks a worker to check a rank whose pieces are all placed, and to answer
// with Sealed or SealFailed. For a sealed rank it answers again; for one that
// is being checked it does nothing more.
type Seal struct{ Hold Hold }

// Free tells a worker to give an arena back, if it has it.
type Free struct{ Hold Hold }

// Emit publishes a fact. Chunk and Rank are -1 where it is about none.
type Emit struct {
	Kind   Kind
	Reason string
	Worker string
	Rank   int
	Chunk  int
}

// Wake asks for a Tick at the given time.
type Wake struct{ At time.Time }

// End says that the job is over; no command follows it but Free.
type End struct {
	State Status // Ready, Failed or Cancelled
	Err   error  // why, unless ready
}

func (Place) command()  {}
func (Load) command()   {}
func (Revoke) command() {}
func (Seal) command()   {}
func (Free) command()   {}
func (Emit) command()   {}
func (Wake) command()   {}
func (End) command()    {}
