package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// Limits of the service, in bytes of JSON. A longer reply goes through the
// object store; a longer request is refused.
const (
	maxRequest = 64 << 10
	maxReply   = 512 << 10
)

// requestTimeout is how long one request may take. Requests for one verb are
// answered one after the other.
const requestTimeout = 30 * time.Second

// endpoint is one verb.
type endpoint struct {
	verb, about    string
	request, reply any // of the types that the schema shows
	call           func(ctx context.Context, api API, data []byte) (any, error)
}

// with makes a call of an API method that takes a request.
func with[Q, R any](verb, about string, method func(API, context.Context, Q) (R, error)) endpoint {
	return endpoint{verb, about, *new(Q), *new(R), func(ctx context.Context, api API, data []byte) (any, error) {
		var q Q
		if err := decode(verb, data, &q); err != nil {
			return nil, err
		}
		return method(api, ctx, q)
	}}
}

// without makes a call of an API method that takes none.
func without[R any](verb, about string, method func(API, context.Context) (R, error)) endpoint {
	return with(verb, about, func(api API, ctx context.Context, _ nothing) (R, error) { return method(api, ctx) })
}

var endpoints = []endpoint{
	with(verbLoad, "Submit a load. The same job id again is the same job.", API.Load),
	with(verbSwap, "Submit a load whose model takes the place of the resident one of its name when all of it is ready.", API.Swap),
	with(verbPlan, "Say what a load would do.", API.Plan),
	with(verbStatus, "Show a job, the newest where none is named.", API.Status),
	without(verbJobs, "List all jobs, newest first.", API.Jobs),
	with(verbCancel, "Stop a job and free what it placed.", API.Cancel),
	without(verbModels, "List resident models.", API.Models),
	with(verbUnload, "Free a resident model.", API.Unload),
	with(verbExport, "Write a resident model to a folder that the workers reach. The same export id again says how far it is.", API.Export),
	without(verbWorkers, "List the cluster's workers and their devices.", API.Workers),
}

// decode reads a request strictly: a field that nobody knows is a mistake that
// the sender should hear of.
func decode(verb string, data []byte, into any) error {
	if len(data) > maxRequest {
		return recovery.Errorf(recovery.Usage, "%s: the request has %d bytes, at most %d are taken", verb, len(data), maxRequest)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return recovery.Errorf(recovery.Usage, "%s: the request is not as the endpoint's schema says: %w", verb, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return recovery.Errorf(recovery.Usage, "%s: something follows the request", verb)
	}
	return nil
}

// service answers requests until it is stopped.
type service struct {
	c     *Cluster
	api   API
	leads func(context.Context) bool
	ctx   context.Context // of all requests

	mu      sync.RWMutex // held for reading by each request, so that stop can wait
	stopped bool
}

// Serve answers the micro service's verbs from api, until stop is called; stop
// returns when no request is being answered. Only the leader serves: all that
// think they lead get each request, and one that finds, by leads (Term.Sure),
// that it does not has the client ask again. version is Gantry's; one that is not a
// semantic version is shown as 0.0.0.
func (c *Cluster) Serve(api API, version string, leads func(context.Context) bool) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{c: c, api: api, leads: leads, ctx: ctx}
	// In a queue group a leader that is frozen would be sent every other request.
	config := micro.Config{Name: ServiceName, QueueGroupDisabled: true, Version: version, Description: "loads models over a cluster", Metadata: map[string]string{"version": version}}
	svc, err := micro.AddService(c.nc, config)
	if errors.Is(err, micro.ErrConfigValidation) { // a development build
		config.Version = "0.0.0"
		svc, err = micro.AddService(c.nc, config)
	}
	if err != nil {
		cancel()
		return nil, classify("serve", err)
	}
	stop = func() error {
		cancel()
		err := svc.Stop()
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		return classify("stop serving", err)
	}
	for _, e := range endpoints {
		if err := s.add(svc, e); err != nil {
			return nil, errors.Join(classify("serve "+e.verb, err), stop())
		}
	}
	// The subscriptions are in force when the server has answered.
	if err := c.nc.FlushTimeout(3 * time.Second); err != nil {
		return nil, errors.Join(classify("serve", err), stop())
	}
	return stop, nil
}

func (s *service) add(svc micro.Service, e endpoint) error {
	request, err := schemaOf(e.request)
	if err != nil {
		return err
	}
	reply, err := schemaOf(e.reply)
	if err != nil {
		return err
	}
	return svc.AddEndpoint(e.verb, micro.HandlerFunc(func(r micro.Request) { s.handle(e, r) }),
		micro.WithEndpointSubject(messages.APISubject(s.c.names.prefix, e.verb)),
		micro.WithEndpointMetadata(map[string]string{"description": e.about, "request_schema": request, "reply_schema": reply}))
}

func (s *service) handle(e endpoint, r micro.Request) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ctx, cancel := context.WithTimeout(s.ctx, requestTimeout)
	defer cancel()
	ctx = w3c.Extract(ctx, headers(r.Headers()))
	ctx, span := startSpan(ctx, "process", r.Subject(), trace.SpanKindConsumer)
	reply, err := s.answer(ctx, e, r)
	back := headers{}
	w3c.Inject(ctx, back)
	if err == nil && len(reply) > maxReply {
		var digest string
		if digest, err = s.c.Plans.Put(ctx, reply); err == nil {
			back.Set(objectHeader, digest)
			reply, err = json.Marshal(objectReply{digest})
		}
	}
	if err != nil {
		err = s.refuse(r, err, back)
	} else {
		err = r.Respond(reply, micro.WithHeaders(micro.Headers(back)))
	}
	if err != nil {
		slog.WarnContext(ctx, "a reply was not sent", "verb", e.verb, "error", err)
	}
	endSpan(span, err)
}

func (s *service) answer(ctx context.Context, e endpoint, r micro.Request) ([]byte, error) {
	if s.stopped || !s.leads(ctx) {
		return nil, recovery.Errorf(recovery.ClusterLost, "%s: this coordinator leads no more: ask again", e.verb)
	}
	out, err := e.call(ctx, s.api, r.Data())
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// refuse replies an error, in the body and in the micro service's headers.
func (s *service) refuse(r micro.Request, err error, back headers) error {
	class := recovery.ClassOf(err)
	message := oneLine(err)
	body, jsonErr := json.Marshal(errorReply{messages.Error{Class: class, Message: message}})
	if jsonErr != nil {
		return fmt.Errorf("cluster: write error reply: %w", jsonErr)
	}
	return r.Error(codeOf(class), message, body, micro.WithHeaders(micro.Headers(nats.Header(back))))
}

// oneLine is an error's text without line breaks, which a header cannot hold.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
