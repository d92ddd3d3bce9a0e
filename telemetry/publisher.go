package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// Bounds of what waits.
const (
	maxEvents   = 4096 // events not yet given to NATS
	maxUnacked  = 256  // events given to NATS and not yet stored
	ackTimeout  = 5 * time.Second
	flushWindow = 2 * time.Second // how long Close waits for NATS
)

// Publisher tells NATS how far jobs are. Update and Event never block: a
// goroutine of the Publisher sends, and what it cannot send it counts.
type Publisher struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	prefix  string
	counter metric.Int64Counter
	dropped atomic.Uint64

	mu     sync.Mutex
	closed bool
	pace   pace
	events []*nats.Msg // in order of their ids once sorted
	id     string      // of this publisher
	named  uint64      // events that have been given an id

	wake chan struct{} // there is something new
	stop chan struct{}
	done chan struct{}
	end  time.Time // until when Close waits; set before stop is closed
}

// NewPublisher returns a Publisher over a connection, which stays the
// caller's. prefix begins the subjects; "" is messages.Prefix. The caller
// closes it before the connection.
func NewPublisher(nc *nats.Conn, prefix string) (*Publisher, error) {
	if prefix == "" {
		prefix = messages.Prefix
	}
	if err := messages.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	p := &Publisher{nc: nc, prefix: prefix, pace: pace{}, id: nuid.Next(),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	var err error
	p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxUnacked), jetstream.WithPublishAsyncTimeout(ackTimeout),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { p.notStored(m, err) }))
	if err != nil {
		return nil, fmt.Errorf("telemetry: publisher: %w", err)
	}
	p.counter, err = otel.Meter(scope).Int64Counter("gantry.telemetry.dropped", metric.WithUnit("{message}"),
		metric.WithDescription("Messages about progress that could not be sent."))
	if err != nil {
		return nil, fmt.Errorf("telemetry: publisher: %w", err)
	}
	go p.run()
	return p, nil
}

// Update reports a worker's progress. At most four a second of one job and
// worker are sent, the latest ones, and one at each change of stage. Seq is
// set here.
func (p *Publisher) Update(ctx context.Context, u progress.Update) {
	if u.Time.IsZero() {
		u.Time = time.Now()
	}
	r := report{u, traceHeader(ctx)}
	p.mu.Lock()
	ok := !p.closed && p.pace.add(time.Now(), r)
	p.mu.Unlock()
	if !ok {
		p.drop(messages.ProgressSubject(p.prefix, u.Job, u.Worker), errors.New("too many wait"))
	}
	p.signal()
}

// Event reports a fact. Events are sent in order. One that was not stored because
// NATS went away is sent again, perhaps after later ones that were; by its id it
// is stored once.
func (p *Publisher) Event(ctx context.Context, e progress.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	m, err := message(messages.EventSubject(p.prefix, e.Job, e.Kind), e, traceHeader(ctx))
	if err != nil {
		p.drop(e.Job, err)
		return
	}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	p.mu.Lock()
	p.named++
	m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%s-%020d", p.id, p.named))
	p.mu.Unlock()
	p.queue(m)
}

// notStored takes an event back that NATS has not confirmed.
func (p *Publisher) notStored(m *nats.Msg, err error) {
	var refused *jetstream.APIError
	if errors.As(err, &refused) {
		p.drop(m.Subject, err)
		return
	}
	p.queue(m)
}

// queue adds an event to those that are to be sent.
func (p *Publisher) queue(m *nats.Msg) {
	p.mu.Lock()
	ok := !p.closed && len(p.events) < maxEvents
	if ok {
		p.events = append(p.events, m)
	}
	p.mu.Unlock()
	if !ok {
		p.drop(m.Subject, errors.New("too many wait"))
	}
	p.signal()
}

// Dropped returns how many messages could not be sent.
func (p *Publisher) Dropped() uint64 { return p.dropped.Load() }

// Close sends what waits, for as long as flushWindow allows. What is reported
// afterwards is dropped.
func (p *Publisher) Close() error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		<-p.done
		return nil
	}
	p.end = time.Now().Add(flushWindow)
	close(p.stop)
	<-p.done
	if err := p.nc.FlushTimeout(p.left()); err != nil {
		return fmt.Errorf("telemetry: flush to NATS: %w", err)
	}
	select {
	case <-p.js.PublishAsyncComplete():
		return nil
	case <-time.After(p.left()):
		return fmt.Errorf("telemetry: flush to NATS: %d events were not confirmed", p.js.PublishAsyncPending())
	}
}

// left is how long Close may still wait, and more than 0.
func (p *Publisher) left() time.Duration { return max(time.Until(p.end), time.Millisecond) }

func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// run sends until the Publisher is closed.
func (p *Publisher) run() {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-p.stop:
			p.send(true)
			return
		case <-p.wake:
		case <-timer.C:
		}
		if again := p.send(false); !again.IsZero() {
			timer.Reset(time.Until(again))
		}
	}
}

// send gives NATS what is due, and returns when to look again. While NATS cannot
// be reached all of it waits here, within the bounds of what waits.
func (p *Publisher) send(all bool) time.Time {
	if !all && !p.nc.IsConnected() {
		return time.Now().Add(interval)
	}
	p.mu.Lock()
	events := p.events
	p.events = nil
	reports, again := p.pace.take(time.Now(), all)
	p.mu.Unlock()
	slices.SortStableFunc(events, func(a, b *nats.Msg) int {
		return strings.Compare(a.Header.Get(nats.MsgIdHdr), b.Header.Get(nats.MsgIdHdr))
	})
	if waiting := p.sendEvents(events, all); waiting {
		if soon := time.Now().Add(interval); again.IsZero() || soon.Before(again) {
			again = soon
		}
	}
	for _, r := range reports {
		// Without an acknowledgement: the next report makes up for a lost one.
		m, err := message(messages.ProgressSubject(p.prefix, r.update.Job, r.update.Worker), r.update, r.header)
		if err == nil {
			err = p.nc.PublishMsg(m)
		}
		if err != nil {
			p.drop(messages.ProgressSubject(p.prefix, r.update.Job, r.update.Worker), err)
		}
	}
	return again
}

// sendEvents gives events to NATS. While it takes none, what is left goes back
// into the queue (waiting is true) or, at the end, is dropped.
func (p *Publisher) sendEvents(events []*nats.Msg, last bool) (waiting bool) {
	for i, m := range events {
		var wait []jetstream.PublishOpt // where maxUnacked are out: a little, but at the end as long as there is
		if last {
			wait = append(wait, jetstream.WithStallWait(p.left()))
		}
		_, err := p.js.PublishMsgAsync(m, wait...)
		switch {
		case err == nil:
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject):
			p.drop(m.Subject, err) // nobody will ever take it
		case last:
			for range events[i:] {
				p.drop(m.Subject, err)
			}
			return false
		default:
			p.mu.Lock()
			p.events = append(events[i:len(events):len(events)], p.events...)
			p.mu.Unlock()
			return true
		}
	}
	return false
}

func (p *Publisher) drop(subject string, err error) {
	p.dropped.Add(1)
	p.counter.Add(context.Background(), 1)
	slog.Debug("a message about progress was dropped", "subject", subject, "error", err)
}

func message(subject string, body any, header nats.Header) (*nats.Msg, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subject, Data: data, Header: header}, nil
}

// traceHeader carries the span of ctx, or is nil where there is none. The name
// is lower-case: NATS distinguishes.
func traceHeader(ctx context.Context) nats.Header {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if len(carrier) == 0 {
		return nil
	}
	h := nats.Header{}
	for k, v := range carrier {
		h.Set(k, v)
	}
	return h
}
