package transfer

import (
	"context"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/dtype"
)

// Ticket is the right to write one piece once.
type Ticket struct {
	Job        string
	Chunk      int
	Attempt    uint64 // of the chunk's dispatch
	Serial     uint64 // of the sender's deliveries: a later one of an attempt takes over from an earlier one
	Epoch      uint64 // of the coordinator that dispatched it
	Rank       int
	Generation uint64 // of the rank's arena
	Bytes      int64
	Digest     [16]byte // xxh3-128 of the piece
	// Stored counts the values that are not finite in what the piece was made
	// of, where the load counts them.
	Stored dtype.Tally
	// Verified says that what the piece was made of was checked against the
	// source's digests.
	Verified bool
}

// Sink is the receiving side: it owns the arenas.
type Sink interface {
	// Receive says where the ticket's bytes go. It returns a nil Landing and
	// no error where the piece is there already, with this digest: the bytes
	// are discarded. It fails with class stale for a ticket that is not, or
	// no longer, good; and with recovery.DigestMismatch where the piece is
	// there with another digest.
	Receive(t Ticket) (Landing, error)
}

// Landing is a granted ticket. Exactly one of Commit and Abort ends it; until
// then the arena is not freed.
type Landing interface {
	// Parts is where the bytes go, in order; together Ticket.Bytes long.
	Parts() [][]byte
	// Context ends when the ticket is revoked: the receiver closes the stream.
	Context() context.Context
	// Commit takes the xxh3-128 of what lies in Parts. It counts the piece as
	// placed, or fails with class digest_mismatch where that is not the
	// ticket's.
	Commit(sum [16]byte) error
	// Abort gives the ticket back with nothing placed.
	Abort()
}

// hashStep is how much is received, or copied, before it is hashed: little
// enough to be in a core's cache still.
const hashStep = 512 << 10

// fill has read fill parts, step by step, and returns the xxh3-128 of them.
func fill(parts [][]byte, read func([]byte) error) (sum [16]byte, err error) {
	h := xxh3.New()
	for _, part := range parts {
		for len(part) > 0 {
			step := part[:min(len(part), hashStep)]
			if err := read(step); err != nil {
				return sum, err
			}
			h.Write(step)
			part = part[len(step):]
		}
	}
	return h.Sum128().Bytes(), nil
}

// Sender delivers pieces to other workers.
type Sender interface {
	// Send delivers the concatenation of parts to the worker at addr and
	// returns when it has been placed there, or an error with its class.
	Send(ctx context.Context, addr string, t Ticket, parts [][]byte) error
}
