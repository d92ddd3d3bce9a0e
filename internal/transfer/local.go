package transfer

import (
	"context"

	"github.com/gantry-ml/gantry/recovery"
)

// Local is a Sender between nodes of the same process: it copies into the
// target's landing. Its keys are the names that Send takes as addresses; it
// must not change while it is used.
type Local map[string]Sink

// Send implements Sender.
func (l Local) Send(ctx context.Context, addr string, t Ticket, parts [][]byte) error {
	sink := l[addr]
	if sink == nil {
		return recovery.Errorf(recovery.WorkerLost, "transfer: no node %q in this process", addr)
	}
	landing, err := sink.Receive(t)
	if landing == nil {
		return err
	}
	var src []byte
	sum, err := fill(landing.Parts(), func(dst []byte) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case landing.Context().Err() != nil:
			return recovery.Errorf(recovery.Reset, "transfer: ticket revoked: %w", context.Cause(landing.Context()))
		}
		for len(dst) > 0 {
			if len(src) == 0 && len(parts) == 0 {
				return recovery.Errorf(recovery.Internal, "transfer: payload is shorter than its ticket")
			}
			if len(src) == 0 {
				src, parts = parts[0], parts[1:]
			}
			n := copy(dst, src)
			dst, src = dst[n:], src[n:]
		}
		return nil
	})
	if err != nil {
		landing.Abort()
		return err
	}
	return landing.Commit(sum)
}
