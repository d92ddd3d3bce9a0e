package telemetry

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/source"
)

// ObserveSources returns an observer that counts what sources are asked for,
// at the global meter provider, and marks each operation in the span that it
// belongs to. Files' names go into traces only: a metric has few attributes.
func ObserveSources() (source.Observer, error) {
	took, err := otel.Meter(scope).Float64Histogram("gantry.source.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of an operation on a remote source, its tries and what its reader does in between included."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	if err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	return func(ctx context.Context, o source.Operation) {
		about := []attribute.KeyValue{attribute.String("gantry.source.operation", o.Op)}
		if o.Class != "" {
			about = append(about, attribute.String("error.type", string(o.Class)))
		}
		took.Record(ctx, o.Took.Seconds(), metric.WithAttributes(about...))
		trace.SpanFromContext(ctx).AddEvent("source "+o.Op, trace.WithAttributes(append(about,
			attribute.String("file.name", o.File), attribute.Int64("gantry.source.bytes", o.Bytes), attribute.Float64("gantry.source.duration_s", o.Took.Seconds()))...))
	}, nil
}
