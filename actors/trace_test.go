package actors

import (
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/gantry-ml/gantry/messages"
)

// TestTraceGoesThrough: one trace from the submitter to the chunks.
func TestTraceGoesThrough(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	defer otel.SetTracerProvider(before)

	w := newWorld(t, 2)
	ctx, submit := provider.Tracer("test").Start(t.Context(), "submit")
	q := request("a")
	q.Options.Layout.TP = 2
	j, err := w.co.Load(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	submit.End()
	if j = w.wait(j.Job); j.State != messages.StateReady {
		t.Fatal(j.Why)
	}
	want := map[string]int{"load": 1, "plan": 1, "rank": 2, "chunk": 20}
	w.until("all spans have ended", func() bool { return len(spans.Ended()) >= 25 })
	count := map[string]int{}
	parent := map[string]string{}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() != submit.SpanContext().TraceID() {
			t.Errorf("span %s is in another trace", s.Name())
		}
		count[s.Name()]++
		for _, p := range spans.Ended() {
			if p.SpanContext().SpanID() == s.Parent().SpanID() {
				parent[s.Name()] = p.Name()
			}
		}
	}
	for name, n := range want {
		if count[name] != n {
			t.Errorf("%d spans %s, want %d", count[name], name, n)
		}
	}
	for child, want := range map[string]string{"load": "submit", "plan": "load", "rank": "load", "chunk": "rank"} {
		// A chunk that is read for other workers only belongs to the load.
		if parent[child] != want && !(child == "chunk" && parent[child] == "load") {
			t.Errorf("span %s is a child of %q, want %q", child, parent[child], want)
		}
	}
}
