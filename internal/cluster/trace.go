package cluster

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const tracerName = "github.com/gantry-ml/gantry/internal/cluster"

// w3c is used whatever the process has set up: headers are part of the
// contract. It writes lower-case names, and NATS keeps the case.
var w3c = propagation.TraceContext{}

// headers carries trace context in NATS headers.
type headers nats.Header

func (h headers) Get(key string) string { return nats.Header(h).Get(key) }
func (h headers) Set(key, value string) { nats.Header(h).Set(key, value) }
func (h headers) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// startSpan begins a span for one message, with the attributes of the
// messaging semantic conventions. op is "send" or "process".
func startSpan(ctx context.Context, op, subject string, kind trace.SpanKind) (context.Context, trace.Span) {
	return otel.Tracer(tracerName).Start(ctx, op+" "+subject, trace.WithSpanKind(kind), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.destination.name", subject),
		attribute.String("messaging.operation.name", op),
		attribute.String("messaging.operation.type", op)))
}

// endSpan ends a span with what became of it.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
