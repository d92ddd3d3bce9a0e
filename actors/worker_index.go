package actors

import (
	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

// indexTask opens a checkpoint for a coordinator that plans.
type indexTask struct{ to *actor.PID } // who asked last

// indexKey is the job and the URI.
type indexKey struct{ job, uri string }

// indexOpened is what a task's goroutine tells the worker.
type indexOpened struct {
	key   indexKey
	reply *control.IndexOpened
}

// openIndex opens the checkpoint and stores the index. That of a job which is
// open here is there. While it is being opened another who asks, or the same
// again, gets the answer.
func (w *worker) openIndex(c actor.Context, m *control.OpenIndex) {
	key := indexKey{m.Header.GetJob(), m.GetUri()}
	if t := w.indexes[key]; t != nil {
		t.to = c.Sender()
		return
	}
	w.indexes[key] = &indexTask{c.Sender()}
	var ix *checkpoint.Index
	if j := w.jobs[key.job]; j != nil && j.state == jobIsOpen {
		ix = j.index // what its arenas were filled by
	}
	ctx, self, reply := contextOf(w.ctx, c), c.Self(), &control.IndexOpened{Header: w.header(key.job, m.Header.GetEpoch())}
	w.goDo(func() {
		var err error
		if ix == nil {
			ix, err = w.Open(ctx, key.uri, m.GetStrategy().Recovery())
		}
		if err == nil {
			reply.Digest, err = w.Plans.PutIndex(ctx, ix)
		}
		reply.Error = control.FromError(err)
		w.system.root.Send(self, indexOpened{key, reply})
	})
}

func (w *worker) indexOpened(c actor.Context, m indexOpened) {
	if err := m.reply.GetError().Recover(); err != nil {
		if recovery.ClassOf(err) == recovery.NotAllowed {
			w.Metrics.Refused(w.ctx, string(recovery.NotAllowed))
		}
		w.Log.Warn("checkpoint could not be opened", "job", m.key.job, "err", err)
	}
	if to := w.indexes[m.key].to; to != nil {
		c.Request(to, m.reply)
	}
	delete(w.indexes, m.key)
}
