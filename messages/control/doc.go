// Package control is the protobuf of the messages between actors, generated
// from control.proto, and their conversions to and from Gantry's own types.
package control

//go:generate go run github.com/gantry-ml/gantry/messages/internal/protogen control.proto
