package progress

import "time"

// Stage is one of the five stages of a load, in order.
type Stage string

// The stages, with their weights in Counters.Overall.
const (
	Initializing   Stage = "Initializing"   // 5 %: opened, planned, arenas made
	LoadingWeights Stage = "LoadingWeights" // 70 %: stored bytes read
	Processing     Stage = "Processing"     // 20 %: bytes transformed and placed
	Validating     Stage = "Validating"     // 4 %: ranks checked and sealed
	Completed      Stage = "Completed"      // 1 %: the model is ready
)

// Stages lists all of them in order.
var Stages = []Stage{Initializing, LoadingWeights, Processing, Validating, Completed}

// Counters is what a load has done so far. Totals are zero until planned.
type Counters struct {
	Planned        bool  `json:"planned"`    // and every rank has had an arena
	BytesRead      int64 `json:"bytes_read"` // stored bytes, of chunks whose read is done
	BytesToRead    int64 `json:"bytes_to_read"`
	BytesPlaced    int64 `json:"bytes_placed"` // arena bytes, of pieces placed
	BytesToPlace   int64 `json:"bytes_to_place"`
	ChunksDone     int   `json:"chunks_done"`
	ChunksTotal    int   `json:"chunks_total"`
	RanksValidated int   `json:"ranks_validated"`
	RanksTotal     int   `json:"ranks_total"`
	Ready          bool  `json:"ready"`
}

// Overall returns the fraction done, 0 to 1: .05 × planned + .70 × read +
// .20 × placed + .04 × validated + .01 × ready.
func (c Counters) Overall() float64 {
	if !c.Planned {
		return 0
	}
	if c.Ready {
		return 1
	}
	f := .05 + .70*part(c.BytesRead, c.BytesToRead) + .20*part(c.BytesPlaced, c.BytesToPlace) +
		.04*part(int64(c.RanksValidated), int64(c.RanksTotal))
	return min(f, .99)
}

// Stage returns the first stage that is not complete.
func (c Counters) Stage() Stage {
	switch {
	case !c.Planned:
		return Initializing
	case c.Ready:
		return Completed
	case c.BytesRead < c.BytesToRead:
		return LoadingWeights
	case c.BytesPlaced < c.BytesToPlace:
		return Processing
	case c.RanksValidated < c.RanksTotal:
		return Validating
	}
	return Completed
}

// part is done/total; nothing to do is done.
func part(done, total int64) float64 {
	if total <= 0 {
		return 1
	}
	return min(max(float64(done)/float64(total), 0), 1)
}

// Update is one report of a load's progress: the message on
// `gantry.v1.progress.<job>.<worker>` and the argument of the library's
// progress callback. Rank is -1 where the update is about several.
type Update struct {
	Job             string    `json:"job"`
	Model           string    `json:"model"`
	Worker          string    `json:"worker"`
	Rank            int       `json:"rank"`
	Stage           Stage     `json:"stage"`
	BytesDone       int64     `json:"bytes_done"`  // stored bytes read
	BytesTotal      int64     `json:"bytes_total"` // stored bytes to read
	ChunksDone      int       `json:"chunks_done"`
	ChunksTotal     int       `json:"chunks_total"`
	RateBytesPerSec float64   `json:"rate_bytes_per_s"`
	ETASec          float64   `json:"eta_s"` // -1 while unknown
	Overall         float64   `json:"overall"`
	Seq             uint64    `json:"seq"`
	Time            time.Time `json:"time"`
}
