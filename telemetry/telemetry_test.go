package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() { // what the machine's user has set is not ours
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T) *Telemetry {
	t.Helper()
	tel, err := Start(t.Context(), Options{Service: "test", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func shutdown(t *testing.T, tel *Telemetry) {
	t.Helper()
	if err := tel.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// traceCollector keeps the names of the spans it is sent.
type traceCollector struct {
	mu       sync.Mutex
	spans    []string
	services []string
}

func (c *traceCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zr, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = zr
	}
	data, err := io.ReadAll(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var q collector.ExportTraceServiceRequest
	if r.URL.Path == "/v1/traces" {
		if err := proto.Unmarshal(data, &q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range q.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				c.services = append(c.services, a.Value.GetStringValue())
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, s.Name)
			}
		}
	}
}

func TestSpansReachCollector(t *testing.T) {
	got := &traceCollector{}
	server := httptest.NewServer(got)
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	tel := start(t)
	_, span := otel.Tracer("test").Start(t.Context(), "load")
	span.End()
	shutdown(t, tel)
	if len(got.spans) != 1 || got.spans[0] != "load" || got.services[0] != "test" {
		t.Errorf("the collector got spans %v of %v", got.spans, got.services)
	}
}

func TestNothingIsExportedUnasked(t *testing.T) {
	for _, env := range []string{"", "OTEL_TRACES_EXPORTER=none", "OTEL_SDK_DISABLED=true"} {
		if name, value, ok := strings.Cut(env, "="); ok {
			t.Setenv(name, value)
		}
		tel := start(t)
		ctx, span := otel.Tracer("test").Start(t.Context(), "load")
		if env == "" && span.IsRecording() {
			t.Error("a span is recorded for nobody")
		}
		if !trace.SpanContextFromContext(ctx).IsValid() {
			t.Error("a span has no id for the logs")
		}
		span.End()
		begin := time.Now()
		shutdown(t, tel)
		if took := time.Since(begin); took >= shutdownTimeout {
			t.Errorf("%q: shutdown took %v", env, took)
		}
	}
}

// TestDeadCollector: it costs a bounded time at the end, and nothing before.
func TestDeadCollector(t *testing.T) {
	stuck := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stuck)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	tel := start(t)
	begin := time.Now()
	for range 20_000 {
		_, span := otel.Tracer("test").Start(t.Context(), "chunk")
		span.End()
	}
	if took := time.Since(begin); took > 20*time.Second { // to wait for the collector would take minutes
		t.Errorf("20,000 spans took %v", took)
	}
	begin = time.Now()
	if err := tel.Shutdown(context.Background()); err == nil {
		t.Error("no error although nothing was delivered")
	}
	if took := time.Since(begin); took > 2*shutdownTimeout {
		t.Errorf("shutdown took %v", took)
	}
}

func TestMetrics(t *testing.T) {
	tel := start(t)
	defer shutdown(t, tel)
	m, err := NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	m.Chunk(ctx, 1000, 20*time.Millisecond, "")
	m.Chunk(ctx, 24, time.Second, "timeout")
	m.Retry(ctx, "timeout")
	m.Placed(ctx, 512)
	m.JobActive(ctx, 1)
	m.Staging(ctx, 64)
	rec := httptest.NewRecorder()
	tel.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := rec.Body.String()
	for _, want := range []string{
		"gantry_load_bytes_read_total{", "gantry_load_bytes_placed_total{", "gantry_chunk_duration_seconds_bucket{",
		"gantry_chunk_retries_total{error_type=\"timeout\"", "gantry_job_active{", "gantry_staging_bytes{", "go_goroutines", "service_version=\"1.2.3\"",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if !strings.Contains(text, "} 1024\n") {
		t.Error("bytes read are not 1024")
	}

	var none *Metrics
	none.Chunk(ctx, 1, 1, "")
	none.Retry(ctx, "")
	none.Placed(ctx, 1)
	none.JobActive(ctx, 1)
	none.Staging(ctx, 1)
}

func TestLogsCarryTheTrace(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(LogHandler(slog.NewJSONHandler(&buf, nil))).With("a", 1)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}})
	log.InfoContext(trace.ContextWithSpanContext(t.Context(), sc), "in")
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["trace_id"] != sc.TraceID().String() || line["span_id"] != sc.SpanID().String() || line["a"] != 1.0 {
		t.Errorf("line %v", line)
	}
	buf.Reset()
	log.Info("out")
	if strings.Contains(buf.String(), "trace_id") {
		t.Errorf("line %s", buf.String())
	}
}
