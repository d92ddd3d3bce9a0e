// Package actors runs loads over a cluster: Coordinator, Job, Worker, Shard
// and Chunk actors on protoactor-go, and their supervision. They carry
// messages into internal/job and its commands out, and hold no load logic of
// their own; they do no I/O and know no format (loader does, behind Node).
package actors
