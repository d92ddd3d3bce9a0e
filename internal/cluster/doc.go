// Package cluster keeps what must outlive a process, on NATS: the embedded
// server, streams and buckets, leases of members and of the leader, the job
// store, the plan store, and the micro service that clients talk to.
package cluster
