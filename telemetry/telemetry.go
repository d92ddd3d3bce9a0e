package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// shutdownTimeout bounds how long a process waits at its end for a collector
// that does not answer.
const shutdownTimeout = 3 * time.Second

// Options says who reports.
type Options struct {
	Service string // "gantry", "coordinator", "worker"; OTEL_SERVICE_NAME wins
	Version string
}

// Telemetry holds the process's OpenTelemetry providers.
type Telemetry struct {
	traces   *trace.TracerProvider
	meters   *metric.MeterProvider
	registry *prometheus.Registry
}

// Start sets up OpenTelemetry for the process, from the standard environment
// variables. Without any that names an exporter or an endpoint nothing is
// exported (autoexport's own default would be OTLP to localhost); metrics are
// on Prometheus in any case. It sets the global providers, so it comes before
// the actor system, which takes its meters from there. The caller ends it with
// Shutdown.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", o.Service), attribute.String("service.version", o.Version)),
		resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if t.traces, err = newTraces(ctx, res); err != nil {
		return nil, err
	}
	if t.meters, err = newMeters(ctx, res, t.registry); err != nil {
		return nil, errors.Join(err, t.traces.Shutdown(ctx))
	}
	otel.SetErrorHandler(&onceLoud{})
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetTracerProvider(t.traces)
	otel.SetMeterProvider(t.meters)
	return t, nil
}

// wanted reports whether the environment asks for a signal ("TRACES",
// "METRICS") to be exported.
func wanted(signal string) bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return false
	}
	for _, name := range []string{"OTEL_" + signal + "_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_" + signal + "_ENDPOINT"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

func newTraces(ctx context.Context, res *resource.Resource) (*trace.TracerProvider, error) {
	if !wanted("TRACES") {
		// Spans have ids, for logs and for others that do export, and nothing
		// is recorded.
		return trace.NewTracerProvider(trace.WithResource(res), trace.WithSampler(trace.ParentBased(trace.NeverSample()))), nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("telemetry: trace exporter from OTEL_ variables: %w", err)
	}
	return trace.NewTracerProvider(trace.WithResource(res), trace.WithBatcher(exporter)), nil // drops when its queue is full
}

func newMeters(ctx context.Context, res *resource.Resource, registry *prometheus.Registry) (*metric.MeterProvider, error) {
	scrape, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("telemetry: Prometheus: %w", err)
	}
	opts := []metric.Option{metric.WithResource(res), metric.WithReader(scrape)}
	if wanted("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: metric exporter from OTEL_ variables: %w", err)
		}
		opts = append(opts, metric.WithReader(reader))
	}
	return metric.NewMeterProvider(opts...), nil
}

// Handler serves the process's metrics for Prometheus.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{Registry: t.registry})
}

// Shutdown sends what is waiting and stops, within shutdownTimeout.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var traces, meters error
	wg.Go(func() { traces = t.traces.Shutdown(ctx) })
	wg.Go(func() { meters = t.meters.Shutdown(ctx) })
	wg.Wait()
	if err := errors.Join(traces, meters); err != nil {
		return fmt.Errorf("telemetry: shut down: %w", err)
	}
	return nil
}

// onceLoud logs the first error of OpenTelemetry as a warning and the others
// at debug level: a collector that is away fails every few seconds.
type onceLoud struct{ once sync.Once }

// Handle implements otel.ErrorHandler.
func (o *onceLoud) Handle(err error) {
	level := slog.LevelDebug
	o.once.Do(func() { level = slog.LevelWarn })
	slog.Log(context.Background(), level, "OpenTelemetry cannot export", "error", err)
}
