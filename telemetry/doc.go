// Package telemetry is where progress goes: NATS subjects, OpenTelemetry
// traces and metrics, Prometheus, health pages. Its sinks never block or slow
// a load; what they can't send they drop and count. Only cmd imports it.
package telemetry
