package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// admit checks a command against the fences: the protocol's version, this
// life of the worker, the highest epoch.
func (w *worker) admit(h *control.Header) error {
	switch {
	case h.GetVersion() != control.Version:
		return &recovery.Error{
			Class: recovery.Unsupported, Op: "control message",
			Err:  recovery.Errorf(recovery.Unsupported, "protocol version %d, worker %s speaks %d", h.GetVersion(), w.life.Name, control.Version),
			Hint: "run the same release everywhere",
		}
	case h.Life() != w.life:
		return recovery.Errorf(recovery.Stale, "message for life %d of worker %s, this is life %d of %s", h.GetIncarnation(), h.GetWorker(), w.life.Incarnation, w.life.Name)
	case h.GetEpoch() < w.epoch:
		return recovery.Errorf(recovery.Stale, "epoch %d is over, worker %s follows %d", h.GetEpoch(), w.life.Name, w.epoch)
	}
	return nil
}

// confirmLimit is how long NATS has to tell whether an epoch has begun.
const confirmLimit = 2 * time.Second

// confirmed is what NATS says of a new epoch, and the command that named it.
type confirmed struct {
	command message
	sender  *actor.PID
	err     error
}

// confirm asks whether an epoch that is new here has begun, before the command
// is carried out: a forged one must not fence off who leads.
func (w *worker) confirm(c actor.Context, m message) {
	self, sender := c.Self(), c.Sender()
	w.goDo(func() {
		ctx, cancel := context.WithTimeout(w.ctx, confirmLimit)
		defer cancel()
		w.system.root.Send(self, confirmed{m, sender, w.Begun(ctx, m.GetHeader().GetEpoch())})
	})
}

func (w *worker) confirmed(c actor.Context, m confirmed) {
	if m.err != nil {
		w.refuse(c, m.command, m.sender, m.err)
		return
	}
	w.epoch = max(w.epoch, m.command.GetHeader().GetEpoch())
	c.RequestWithCustomSender(c.Self(), m.command, m.sender)
}
