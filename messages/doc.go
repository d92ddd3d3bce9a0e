// Package messages holds what Gantry's parts say to each other: the protobuf
// control messages between actors (control.proto), and the JSON of the NATS
// contract: jobs, workers, models, requests and replies of the micro service.
// It carries names, ranges and digests, never weights.
package messages
