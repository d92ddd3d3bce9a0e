// Package actors runs loads over a cluster: Coordinator, Job, Worker, Shard
// and Chunk actors on protoactor-go, and their supervision. They carry
// messages into internal/job and its commands out, and hold no load logic of
// their own; they do no I/O and know no format (loader does, behind Node).
//
//	Coordinator   members and their reach, jobs, resident models; answers the API
//	└ Job         one load, or the repair of its model: plan, open, drive internal/job, record, tell
//	Worker        fences what comes in; which jobs are open here, budgets
//	├ Shard       one arena: make, seal, free
//	└ Chunk       one attempt at a chunk: tries, back-off
//
// An error is a message; a panic is a bug, and a supervisor restarts the actor
// after a delay that doubles. What blocks runs in a goroutine that answers by
// message and that its actor's Stop waits for.
//
// Messages between processes may be lost, doubled or late. internal/job asks
// again for what is not answered and workers answer twice what they are asked
// twice, so nothing here repeats a message but OpenJob and CloseJob.
//
// One system serves one process: with Listen its actors are reached by others
// over remote, without it everything is in this process and no port is opened.
package actors
