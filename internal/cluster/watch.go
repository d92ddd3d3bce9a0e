package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// JobNotice is one thing that was heard of a job: exactly one field is set.
type JobNotice struct {
	Job      *messages.Job    // its record; the one in a final state comes last
	Progress *progress.Update // a worker's report
	Event    *progress.Event  // a fact
	Contact  Contact          // NATS went out of reach, or is back
	Err      error            // the watch broke; nothing follows

	more bool // events follow that are there already
}

// Contact is a change of whether NATS can be reached. "" is none.
type Contact string

// The contacts.
const (
	NATSAway Contact = "away"
	NATSBack Contact = "back"
)

// AwayLimit is how long a watch waits for NATS to come back: restarts and
// failures that somebody repairs at once take less.
const AwayLimit = 2 * time.Minute

// lastWords is how long a watch waits, after the final state, for the event
// that announces it.
const lastWords = time.Second

// WatchJob sends what is heard of a job: the events since its submission, the
// last report of each worker, its record, and everything new. It closes the
// channel after the record in its final state, or when ctx is done. It reads
// streams and buckets, so it goes on while no coordinator leads. Where NATS is
// away for AwayLimit it ends with class ClusterLost.
func (c *Client) WatchJob(ctx context.Context, job string) (<-chan JobNotice, error) {
	js, err := jetstream.New(c.nc)
	if err != nil {
		return nil, classify("watch", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	end := awaitRefusal(c.nc, "", cancel)
	w := &jobWatch{job: job, nc: c.nc, awayLimit: c.awayLimit, heard: make(chan JobNotice, 64), out: make(chan JobNotice)}
	if err := end("watch job "+job, w.begin(ctx, js, c.names, job)); err != nil {
		cancel()
		w.stop()
		return nil, classify("watch job "+job, err)
	}
	go func() {
		defer close(w.out)
		w.run(ctx)
		cancel()
		w.stop()
	}()
	return w.out, nil
}

// forgottenAfter is how long the server keeps the consumer of a watch that has
// ended. One that was away for longer gets another, and misses nothing.
const forgottenAfter = 30 * time.Second

type jobWatch struct {
	job       string
	nc        *nats.Conn
	awayLimit time.Duration
	jobs      *Jobs
	records   <-chan Record[messages.Job]
	unwatch   context.CancelFunc // ends records
	consumers []jetstream.ConsumeContext
	heard     chan JobNotice
	out       chan JobNotice
}

// begin begins to hear of the job, until ctx is done.
func (w *jobWatch) begin(ctx context.Context, js jetstream.JetStream, n names, job string) error {
	kv, err := js.KeyValue(ctx, n.jobs)
	if err != nil {
		return err
	}
	w.jobs = newJobs(kv)
	if err := w.watchRecord(ctx); err != nil {
		return err
	}
	if err := w.consume(ctx, js, n.events, messages.EventSubject(n.prefix, job, ""), jetstream.DeliverAllPolicy, hearEvent); err != nil {
		return err
	}
	return w.consume(ctx, js, n.progress, messages.ProgressSubject(n.prefix, job, ""), jetstream.DeliverLastPerSubjectPolicy, hearProgress)
}

// watchRecord begins to watch the job's record, in place of the watch before.
func (w *jobWatch) watchRecord(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	records, err := w.jobs.Watch(ctx, w.job)
	if err != nil {
		cancel()
		return err
	}
	if w.unwatch != nil {
		w.unwatch()
	}
	w.records, w.unwatch = records, cancel
	return nil
}

// consume passes what a stream says about the job to w.heard.
func (w *jobWatch) consume(ctx context.Context, js jetstream.JetStream, stream, subject string, from jetstream.DeliverPolicy, hear func([]byte) (JobNotice, error)) error {
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: from, InactiveThreshold: forgottenAfter})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		n, err := hear(m.Data())
		if err != nil {
			slog.Debug("a message of another version", "subject", m.Subject(), "error", err)
			return
		}
		if about, err := m.Metadata(); err == nil {
			n.more = about.NumPending > 0
		}
		select {
		case w.heard <- n:
		case <-ctx.Done():
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		slog.Debug("watch of a job was interrupted and goes on", "stream", stream, "error", err)
	}))
	if err == nil {
		w.consumers = append(w.consumers, consuming)
	}
	return err
}

// stop ends the consumers and waits until their last handlers have returned.
func (w *jobWatch) stop() {
	for _, c := range w.consumers {
		c.Stop()
		<-c.Closed()
	}
}

func hearEvent(data []byte) (n JobNotice, err error) {
	n.Event = new(progress.Event)
	return n, json.Unmarshal(data, n.Event)
}

func hearProgress(data []byte) (n JobNotice, err error) {
	n.Progress = new(progress.Update)
	return n, json.Unmarshal(data, n.Progress)
}

var errClosed = recovery.Errorf(recovery.ClusterLost, "the watch of the job ended: the connection to NATS was closed")

// run merges the three, and keeps the final record for the end.
func (w *jobWatch) run(ctx context.Context) {
	var final *messages.Job
	var end, given <-chan time.Time // for the last words; until NATS is given up
	status := w.nc.StatusChanged()
	defer w.nc.RemoveStatusListener(status)
	away := false
	announced, more := false, false // the end, before more events of before
	for {
		if final != nil && announced && !more {
			w.send(ctx, JobNotice{Job: final})
			return
		}
		if w.nc.IsClosed() {
			w.send(ctx, JobNotice{Err: errClosed})
			return
		}
		if w.nc.IsConnected() == away {
			away = !away
			if away {
				given = time.After(w.awayLimit)
				w.send(ctx, JobNotice{Contact: NATSAway})
			} else {
				given = nil
				w.send(ctx, JobNotice{Contact: NATSBack})
				// A server that was started again has forgotten the watch, which
				// would find that out after 10 s.
				if err := w.watchRecord(ctx); err != nil && ctx.Err() == nil {
					slog.Debug("watch of a job was interrupted and goes on", "job", w.job, "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-status: // whether it is connected is looked at above
		case <-given:
			w.send(ctx, JobNotice{Err: &recovery.Error{Class: recovery.ClusterLost,
				Err:  fmt.Errorf("NATS has been away for %s, job %s may still be running", w.awayLimit, w.job),
				Hint: "when NATS is back: gantry status " + w.job + " --server …"}})
			return
		case <-end:
			announced, more = true, false
		case r, ok := <-w.records:
			switch {
			case !ok && ctx.Err() == nil:
				w.send(ctx, JobNotice{Err: errClosed})
				return
			case !ok:
				return
			case r.Value.State.Final():
				if final == nil {
					end = time.After(lastWords)
				}
				final = &r.Value
			default:
				w.send(ctx, JobNotice{Job: &r.Value})
			}
		case n := <-w.heard:
			if n.Event != nil {
				announced, more = announced || finalKind(n.Event.Kind), n.more
			}
			w.send(ctx, n)
		}
	}
}

// finalKind reports whether a kind of event announces a final state.
func finalKind(k progress.Kind) bool {
	return k == progress.ReadyEvent || k == progress.Failed || k == progress.Cancelled
}

func (w *jobWatch) send(ctx context.Context, n JobNotice) {
	select {
	case w.out <- n:
	case <-ctx.Done():
	}
}
