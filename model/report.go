package model

import (
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/progress"
)

// Report says how a model came to be here.
type Report struct {
	Job     string
	URI     string
	Seconds float64
	// StoredBytes counts the distinct stored tensor bytes that the plan needs,
	// BytesRead what was read from the source, repeats included.
	StoredBytes    int64
	BytesRead      int64
	BytesPlaced    int64
	Retries        int
	PeakStaging    int64 // bytes
	SourceVerified bool  // the source had digests, and they matched
	Ranks          []Rank
	Stages         []StageTime
	Fallbacks      []string // tensors that did not get the scheme, and why
	Warnings       []string
}

// ReadAmplification returns the bytes read ÷ the distinct bytes needed: 1
// where everything was read once. Nothing to read is 1 as well.
func (r Report) ReadAmplification() float64 {
	if r.StoredBytes == 0 {
		return 1
	}
	return float64(r.BytesRead) / float64(r.StoredBytes)
}

// NonFinite returns how many NaN and Inf there were in the model's tensors as
// they were stored and as they are placed, each value counted in one copy. ok
// is false where nobody asked to count.
func (r Report) NonFinite() (stored, placed dtype.NonFinite, ok bool) {
	for _, rank := range r.Ranks {
		v := rank.Validation
		stored, placed, ok = stored.Plus(v.Stored.Once), placed.Plus(v.Placed.Once), ok || v.Counted
	}
	return stored, placed, ok
}

// Rank is one rank of a resident model.
type Rank struct {
	Rank        int
	Device      string
	Bytes       int64    // of its arena
	Digest      [16]byte // xxh3-128 over the digests of its pieces, in chunk order
	Fingerprint string   // ranks with the same one hold the same bytes
	Validation  Validation
}

// StageTime is how long a stage took, and the stored bytes of the chunks whose
// read ended in it.
type StageTime struct {
	Stage     progress.Stage
	Seconds   float64
	BytesRead int64
}

// Validation is the check of one rank: x·Wᵀ of one placed tensor in ONNX
// Runtime, compared with our own arithmetic.
type Validation struct {
	Ran      bool
	Reason   string  // why it did not run
	Runtime  string  // "onnxruntime 1.29.0"
	Tensor   string  // which was multiplied
	Method   string  // "wrapped": the arena's memory itself; "decoded": rows decoded to f32 first
	Rows     int64   // of W that were used
	MaxError float64 // relative to the largest |y|
	// Counted says that values which are no finite numbers were counted: in
	// what was stored for the rank's tensors, and in what was placed.
	Counted        bool
	Stored, Placed dtype.Tally
}
