package transfer

import (
	"context"

	"github.com/gantry-ml/gantry/recovery"
)

// Local is a Sender between nodes of the same process: it copies into the
// target's landing. Its keys are the names that Send takes as addresses; it
// must not change while it is used.
type Local map[string]Sink

// localStep is how many bytes are copied between two looks at the contexts.
const localStep = 1 << 20

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
	if err := copyParts(ctx, landing, parts); err != nil {
		landing.Abort()
		return err
	}
	return landing.Commit()
}

// copyParts fills the landing from parts, which may be divided differently.
func copyParts(ctx context.Context, l Landing, parts [][]byte) error {
	var src []byte
	for _, dst := range l.Parts() {
		for len(dst) > 0 {
			for len(src) == 0 {
				if len(parts) == 0 {
					return recovery.Errorf(recovery.Internal, "transfer: payload is shorter than its ticket")
				}
				src, parts = parts[0], parts[1:]
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if l.Context().Err() != nil {
				return recovery.Errorf(recovery.Reset, "transfer: ticket revoked: %w", context.Cause(l.Context()))
			}
			n := copy(dst[:min(len(dst), localStep)], src)
			dst, src = dst[n:], src[n:]
		}
	}
	return nil
}
