package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const scope = "github.com/gantry-ml/gantry/telemetry"

// Metrics are the process's own numbers, in UCUM units. A nil *Metrics counts
// nothing. Its methods do not block.
type Metrics struct {
	read    metric.Int64Counter
	placed  metric.Int64Counter
	chunks  metric.Float64Histogram
	retries metric.Int64Counter
	jobs    metric.Int64UpDownCounter
	staging metric.Int64Gauge
	arenas  metric.Int64UpDownCounter
	refused metric.Int64Counter
}

// NewMetrics registers the metrics at the global meter provider.
func NewMetrics() (*Metrics, error) {
	meter := otel.Meter(scope)
	m := &Metrics{}
	errs := make([]error, 8)
	m.read, errs[0] = meter.Int64Counter("gantry.load.bytes_read", metric.WithUnit("By"),
		metric.WithDescription("Stored bytes read from the source."))
	m.placed, errs[1] = meter.Int64Counter("gantry.load.bytes_placed", metric.WithUnit("By"),
		metric.WithDescription("Bytes placed in arenas, of this process and of those that it sent them to."))
	m.chunks, errs[2] = meter.Float64Histogram("gantry.chunk.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of an attempt at a chunk, its tries included."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.retries, errs[3] = meter.Int64Counter("gantry.chunk.retries", metric.WithUnit("{chunk}"),
		metric.WithDescription("Failed tries at a chunk that were tried again."))
	m.jobs, errs[4] = meter.Int64UpDownCounter("gantry.job.active", metric.WithUnit("{job}"),
		metric.WithDescription("Jobs that are open at this worker."))
	m.staging, errs[5] = meter.Int64Gauge("gantry.staging.bytes", metric.WithUnit("By"),
		metric.WithDescription("Staging memory that is present."))
	m.arenas, errs[6] = meter.Int64UpDownCounter("gantry.arena.bytes", metric.WithUnit("By"),
		metric.WithDescription("Memory of the arenas that are held."))
	m.refused, errs[7] = meter.Int64Counter("gantry.control.refused", metric.WithUnit("{message}"),
		metric.WithDescription("Control messages that were not carried out: of another version, life or epoch, about an unknown job, malformed, or about what this process may not read."))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	return m, nil
}

// Chunk counts an attempt's end: the stored bytes that it read, how long it
// took, and its error's class, "" where it went well.
func (m *Metrics) Chunk(ctx context.Context, bytes int64, took time.Duration, class string) {
	if m == nil {
		return
	}
	m.read.Add(ctx, bytes)
	if class == "" {
		m.chunks.Record(ctx, took.Seconds())
		return
	}
	m.chunks.Record(ctx, took.Seconds(), errorType(class))
}

// Retry counts a failed try that is tried again.
func (m *Metrics) Retry(ctx context.Context, class string) {
	if m == nil {
		return
	}
	m.retries.Add(ctx, 1, errorType(class))
}

// Placed counts bytes placed in an arena, here or where they were sent.
func (m *Metrics) Placed(ctx context.Context, bytes int64) {
	if m == nil {
		return
	}
	m.placed.Add(ctx, bytes)
}

// Arena counts memory of arenas that are made (bytes above 0) and freed.
func (m *Metrics) Arena(ctx context.Context, device string, bytes int64) {
	if m == nil {
		return
	}
	m.arenas.Add(ctx, bytes, metric.WithAttributes(attribute.String("gantry.device", device)))
}

// Refused counts a control message that was not carried out, by why.
func (m *Metrics) Refused(ctx context.Context, class string) {
	if m == nil {
		return
	}
	m.refused.Add(ctx, 1, errorType(class))
}

// JobActive counts jobs that are opened (+1) and closed (-1).
func (m *Metrics) JobActive(ctx context.Context, delta int64) {
	if m == nil {
		return
	}
	m.jobs.Add(ctx, delta)
}

// Staging records how much staging memory is present.
func (m *Metrics) Staging(ctx context.Context, bytes int64) {
	if m == nil {
		return
	}
	m.staging.Record(ctx, bytes)
}

// errorType is the attribute by which semantic conventions name a failure.
func errorType(class string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("error.type", class))
}
