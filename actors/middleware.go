package actors

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-ml/gantry/messages/control"
)

// refuseLarge is sender middleware that drops control messages over
// control.MaxBytes: one that got through could take a whole frame of others
// with it.
func (s *System) refuseLarge(next actor.SenderFunc) actor.SenderFunc {
	return func(c actor.SenderContext, to *actor.PID, e *actor.MessageEnvelope) {
		if m, ok := e.Message.(proto.Message); ok {
			if n := proto.Size(m); n > control.MaxBytes {
				s.log.Error("control message is too large and was not sent", "type", fmt.Sprintf("%T", m), "bytes", n, "limit", control.MaxBytes, "to", to.Id)
				return
			}
		}
		next(c, to, e)
	}
}

// traceContext writes and reads the W3C trace context.
var traceContext = propagation.TraceContext{}

// injectTrace is sender middleware that puts ctx's trace context into the
// envelope's headers.
func injectTrace(ctx context.Context) actor.SenderMiddleware {
	return func(next actor.SenderFunc) actor.SenderFunc {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			return next
		}
		return func(c actor.SenderContext, to *actor.PID, e *actor.MessageEnvelope) {
			traceContext.Inject(ctx, headers{e})
			next(c, to, e)
		}
	}
}

// headers is an envelope as a propagation carrier.
type headers struct{ e *actor.MessageEnvelope }

func (h headers) Get(k string) string { return h.e.GetHeader(k) }
func (h headers) Set(k, v string)     { h.e.SetHeader(k, v) }
func (h headers) Keys() []string      { return nil }

// received is the header of the message that an actor is handling, as a
// propagation carrier.
type received struct{ actor.ReadonlyMessageHeader }

func (received) Set(string, string) {}

// tracer is receiver middleware's other half: contextOf returns base with the
// trace context that came with the current message, if one did.
func contextOf(base context.Context, c actor.Context) context.Context {
	h := c.MessageHeader()
	if h == nil || h.Length() == 0 {
		return base
	}
	return traceContext.Extract(base, received{h})
}
