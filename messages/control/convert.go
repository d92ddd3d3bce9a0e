package control

import (
	"errors"
	"time"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// Version is the protocol version of this package's messages.
const Version = 2

// MaxBytes is how large a control message may be. Larger ones are refused by
// the sender: remote packs many messages into one frame, and a frame over the
// receiver's limit is lost whole, without a word.
const MaxBytes = 64 << 10

// maxText bounds an error's text on the wire, so that no cause, however long,
// makes a report too large to send.
const maxText = 4 << 10

// FromError returns err as a message, nil for nil. Its class is that of the
// outermost recovery.Error; its place is of the same.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *recovery.Error
	if !errors.As(err, &e) {
		return &Error{Class: string(recovery.ClassOf(err)), Message: clip(err.Error())}
	}
	why := string(e.Class)
	if e.Err != nil {
		why = e.Err.Error()
	}
	return &Error{
		Class: string(e.Class), Op: clip(e.Op), File: clip(e.File), Tensor: clip(e.Tensor),
		Offset: e.Offset, Length: e.Length, Message: clip(why), Hint: clip(e.Hint),
	}
}

// clip shortens text that is too long to send.
func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// Recover returns the error that FromError was given, as far as it travels:
// its class, place and text. It returns nil for a nil message.
func (x *Error) Recover() error {
	if x == nil {
		return nil
	}
	return &recovery.Error{
		Class: recovery.Class(x.Class), Op: x.Op, File: x.File, Tensor: x.Tensor,
		Offset: x.Offset, Length: x.Length, Err: errors.New(x.Message), Hint: x.Hint,
	}
}

// FromRef returns r without its worker, which the header carries.
func FromRef(r job.Ref) *Ref { return &Ref{Chunk: uint32(r.Chunk), Attempt: r.Attempt} }

// Job returns the ref as an attempt by w.
func (x *Ref) Job(w job.Worker) job.Ref {
	return job.Ref{Chunk: int(x.GetChunk()), Attempt: x.GetAttempt(), Worker: w}
}

// FromHold returns h without its worker, which the header carries.
func FromHold(h job.Hold) *Hold {
	return &Hold{Rank: uint32(h.Rank), Generation: h.Generation, Device: h.Device}
}

// Job returns the hold as one of w's.
func (x *Hold) Job(w job.Worker) job.Hold {
	return job.Hold{Rank: int(x.GetRank()), Generation: x.GetGeneration(), Device: x.GetDevice(), Worker: w}
}

// Life names the worker that the message is for or from.
func (x *Header) Life() job.Worker {
	return job.Worker{Name: x.GetWorker(), Incarnation: x.GetIncarnation()}
}

// FromStrategy returns s without its handler, which stays in its process.
func FromStrategy(s recovery.Strategy) *Strategy {
	return &Strategy{
		Kind: string(s.Kind), Retries: uint32(s.Retries),
		BaseNs: int64(s.Backoff.Base), MaxNs: int64(s.Backoff.Max), Factor: s.Backoff.Factor,
	}
}

// Recovery returns the strategy.
func (x *Strategy) Recovery() recovery.Strategy {
	return recovery.Strategy{
		Kind: recovery.Kind(x.GetKind()), Retries: int(x.GetRetries()),
		Backoff: recovery.Backoff{
			Base: time.Duration(x.GetBaseNs()), Max: time.Duration(x.GetMaxNs()), Factor: x.GetFactor(),
		},
	}
}

// FromOptions returns o as a message.
func FromOptions(o shard.Options) *PlanOptions {
	overrides := make([]*Override, len(o.Overrides))
	for i, v := range o.Overrides {
		overrides[i] = &Override{Pattern: v.Pattern, Scheme: v.Scheme}
	}
	rules := make([]*ModuleRule, len(o.Rules))
	for i, r := range o.Rules {
		rules[i] = &ModuleRule{Pattern: r.Pattern, Rule: string(r.Rule), Place: r.Place}
	}
	return &PlanOptions{
		Tp: uint32(o.Layout.TP), Pp: uint32(o.Layout.PP), Ep: uint32(o.Layout.EP), Dp: uint32(o.Layout.DP),
		Scheme: o.Scheme, ChunkBytes: o.ChunkBytes, KeepOriginal: o.KeepOriginal, Overrides: overrides,
		Rules: rules, PadVocab: o.PadVocab,
	}
}

// Shard returns the options.
func (x *PlanOptions) Shard() shard.Options {
	var overrides []shard.Override
	for _, v := range x.GetOverrides() {
		overrides = append(overrides, shard.Override{Pattern: v.GetPattern(), Scheme: v.GetScheme()})
	}
	var rules []shard.ModuleRule
	for _, r := range x.GetRules() {
		rules = append(rules, shard.ModuleRule{Pattern: r.GetPattern(), Rule: shard.Rule(r.GetRule()), Place: r.GetPlace()})
	}
	return shard.Options{
		Layout: shard.Layout{TP: int(x.GetTp()), PP: int(x.GetPp()), EP: int(x.GetEp()), DP: int(x.GetDp())},
		Scheme: x.GetScheme(), ChunkBytes: x.GetChunkBytes(), KeepOriginal: x.GetKeepOriginal(),
		Overrides: overrides, Rules: rules, PadVocab: x.GetPadVocab(),
	}
}

// maxRuns bounds the runs of one message, so that it can be sent. Pieces come
// nearly in order, so a rank has a few; those that do not fit are not told, and
// read again.
const maxRuns = 4096

// FromHeld returns what a worker has, without the worker, which the header
// carries.
func FromHeld(held []job.Held) []*Held {
	out := make([]*Held, len(held))
	left := maxRuns
	for i, h := range held {
		x := &Held{Hold: FromHold(h.Hold), Verified: h.Verified}
		at := 0
		for _, r := range h.Placed[:min(left, len(h.Placed))] {
			x.Runs = append(x.Runs, uint32(r.Start-at), uint32(r.Stop-r.Start))
			at = r.Stop
			left--
		}
		out[i] = x
	}
	return out
}

// JobHeld returns what w has.
func (x *JobOpened) JobHeld(w job.Worker) []job.Held {
	out := make([]job.Held, len(x.GetHeld()))
	for i, h := range x.GetHeld() {
		out[i].Hold, out[i].Verified = h.GetHold().Job(w), h.GetVerified()
		runs, at := h.GetRuns(), 0
		for ; len(runs) >= 2; runs = runs[2:] {
			start := at + int(runs[0])
			at = start + int(runs[1])
			out[i].Placed = append(out[i].Placed, job.Run{Start: start, Stop: at})
		}
	}
	return out
}

// JobLends returns the ranks that the worker lends.
func (x *JobOpened) JobLends() []int {
	out := make([]int, len(x.GetLends()))
	for i, r := range x.GetLends() {
		out[i] = int(r)
	}
	return out
}

// FromTally returns t as a message.
func FromTally(t dtype.Tally) *Tally {
	return &Tally{AllNan: t.All.NaN, AllInf: t.All.Inf, OnceNan: t.Once.NaN, OnceInf: t.Once.Inf}
}

// Tally returns the tally.
func (x *Tally) Tally() dtype.Tally {
	return dtype.Tally{All: dtype.NonFinite{NaN: x.GetAllNan(), Inf: x.GetAllInf()}, Once: dtype.NonFinite{NaN: x.GetOnceNan(), Inf: x.GetOnceInf()}}
}

// FromPieces returns the pieces of a finished attempt.
func FromPieces(ps []job.PieceDone) []*PieceDone {
	out := make([]*PieceDone, len(ps))
	for i, p := range ps {
		out[i] = &PieceDone{Rank: uint32(p.Rank), Generation: p.Generation, Digest: p.Digest[:], Verified: p.Verified}
	}
	return out
}

// JobPieces returns the pieces of the report. It fails with class internal where
// a digest is not 16 bytes long.
func (x *ChunkDone) JobPieces() ([]job.PieceDone, error) {
	out := make([]job.PieceDone, len(x.GetPieces()))
	for i, p := range x.GetPieces() {
		d, err := Digest(p.GetDigest())
		if err != nil {
			return nil, err
		}
		out[i] = job.PieceDone{Rank: int(p.GetRank()), Generation: p.GetGeneration(), Digest: d, Verified: p.GetVerified()}
	}
	return out, nil
}

// Digest returns b as an xxh3-128. It fails with class internal where b is
// not 16 bytes long.
func Digest(b []byte) (d [16]byte, err error) {
	if len(b) != len(d) {
		return d, recovery.Errorf(recovery.Internal, "a digest of %d bytes, want %d", len(b), len(d))
	}
	return [16]byte(b), nil
}
